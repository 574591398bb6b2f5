"""The text of a file to batches, going on where an earlier load stopped if it is the same text up to there.

Only whole lines are read; the place of a batch is the end of one. A last line without an end is read
if it can be, else it is a file that was cut there: everything before is good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from vigil.archives.batch import BEGINNING, DIGEST_BYTES, Batch, BatchSize, Place, Scope, batch_of
from vigil.archives.lines import Rows
from vigil.archives.trouble import Damaged
from vigil.archives.unpack import PIECE_BYTES, unpacked

LONGEST_LINE_BYTES = 256 << 20
"""A block's line has been seen with some MB; this bounds memory."""

LEAST_PIECE_BYTES = 4096
ROW_BYTES = 256
"""A little less than a fill has: text comes in pieces no larger than a batch."""

PARQUET_MAGIC = b"PAR1"

Open = Callable[[], Iterator[bytes]]


def batches(
    opened: Open, points: Sequence[Place], scope: Scope, size: BatchSize, whole: Callable[[], BinaryIO]
) -> Iterator[Batch]:
    """The batches of a file behind the furthest of `points` that its text agrees with.

    The first one is empty: it tells by its place which point that was. `opened` gives the file's bytes from its
    beginning, and may be called twice; `whole` gives it as a file to seek in, for Parquet.
    Raises: NotFills, ArchiveUnavailable.
    """
    raw = _Counted(opened())
    if raw.begins_with(PARQUET_MAGIC):
        from vigil.archives.parquet import parquet_batches

        yield from parquet_batches(whole(), points, scope, size)
        return
    piece_bytes = max(LEAST_PIECE_BYTES, min(size.rows * ROW_BYTES, PIECE_BYTES))
    text = _Text(raw, piece_bytes)
    found = text.agrees(sorted(points))
    if text.ended or found.bytes_done != text.place.bytes_done:
        text = _Text(_Counted(opened()), piece_bytes)
        text.agrees([found] if found.bytes_done else [])
    yield Batch(found, raw_bytes=text.raw.bytes)
    yield from _line_batches(text, scope, size)


def _line_batches(text: _Text, scope: Scope, size: BatchSize) -> Iterator[Batch]:
    rows = Rows(scope, recognised=text.place.bytes_done > 0)
    size_bytes = 0
    error = None
    try:
        for stretch in text.stretches():
            rows.add(stretch)
            size_bytes += len(stretch)
            if len(rows) >= size.rows or size_bytes >= size.bytes:
                yield _batch(rows, text)
                size_bytes = 0
    except Damaged as damaged:
        error = str(damaged)
    rest = text.rest
    if rest.strip():
        if error is None and rows.add_last(rest):
            text.take(rest)
        else:
            place = text.place
            error = error or "it ends in the middle of a line"
            error += f"; read up to byte {place.bytes_done:,} of its text, line {place.lines_done:,}"
    rows.check_recognised()
    yield _batch(rows, text, last=True, error=error)


def _batch(rows: Rows, text: _Text, *, last: bool = False, error: str | None = None) -> Batch:
    read = text.raw.bytes
    batch = batch_of(rows.lines, text.place, rows.rejected, rows.passed_over, last=last, error=error, raw_bytes=read)
    rows.clear()
    return batch


class _Counted:
    """Counts the bytes that were taken; the first can be looked at before."""

    def __init__(self, raw: Iterator[bytes]) -> None:
        self.bytes = 0
        self._raw = raw
        self._head: list[bytes] = []

    def begins_with(self, magic: bytes) -> bool:
        while sum(map(len, self._head)) < len(magic):
            chunk = next(self._raw, None)
            if chunk is None:
                break
            self._head.append(chunk)
        return b"".join(self._head).startswith(magic)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._head.pop(0) if self._head else next(self._raw)
        self.bytes += len(chunk)
        return chunk


class _Text:
    """Unpacked text, cut into stretches of whole lines; `place` is behind what was taken."""

    def __init__(self, raw: _Counted, piece_bytes: int) -> None:
        self.raw = raw
        self.place = BEGINNING
        self.ended = False  # while it was looked at what it agrees with
        self._pieces = unpacked(raw, piece_bytes)
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._rest: list[bytes] = []

    @property
    def rest(self) -> bytes:
        """What was read, but not taken."""
        return b"".join(self._rest)

    def take(self, text: bytes) -> None:
        self._digest.update(text)
        before = self.place
        self.place = Place(before.bytes_done + len(text), before.lines_done + text.count(b"\n"), self._digest.digest())

    def agrees(self, points: Sequence[Place]) -> Place:
        """Take the text up to the last point; returns the last one that it agrees with."""
        found = BEGINNING
        for point in points:
            if not self._take_until(point.bytes_done):
                self.ended = True
                break
            if self.place.digest == point.digest:
                found = point
        return found

    def _take_until(self, bytes_done: int) -> bool:
        """False when there is not so much."""
        while self.place.bytes_done < bytes_done:
            try:
                piece = self._rest.pop() if self._rest else next(self._pieces, None)
            except Damaged:
                return False
            if piece is None:
                return False
            wanted = bytes_done - self.place.bytes_done
            self.take(piece[:wanted])
            if len(piece) > wanted:
                self._rest = [piece[wanted:]]
        return True

    def stretches(self) -> Iterator[bytes]:
        """The lines, many at a time. Raises: Damaged after all that can be read."""
        rest, self._rest = self._rest, []
        waiting = 0
        for piece in self._chain(rest):
            end = piece.rfind(b"\n") + 1
            if not end:
                self._rest.append(piece)
                waiting += len(piece)
                if waiting > LONGEST_LINE_BYTES:
                    raise Damaged(f"a line is longer than {LONGEST_LINE_BYTES >> 20} MB")
                continue
            stretch = b"".join([*self._rest, piece[:end]])
            self._rest = [piece[end:]] if end < len(piece) else []
            waiting = len(piece) - end
            self.take(stretch)
            yield stretch

    def _chain(self, rest: list[bytes]) -> Iterator[bytes]:
        yield from rest
        yield from self._pieces
