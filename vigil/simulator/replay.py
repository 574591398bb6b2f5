"""Recorded answers of the real exchange, served again as users of the simulator.

A directory of `*.json` files: an array of fills or of `{fill, twapId}` rows, or an object with
`page1_tail` and `page2_head` (two ends of consecutive pages). An address in a file's name says
whose rows they are; files of one user are merged, and rows that several of them hold are kept
once. Without one, the user's address is made from the file's name. Anything else is skipped,
with a warning that names the file: `Recording.skipped` holds the reasons.

JSON values are never parsed and printed again (they stay `msgspec.Raw`), so the text of each
number is the recorded one; only a shift rewrites `time`. Must not know the population.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from vigil.errors import UsageError

from .population import History

_log = logging.getLogger(__name__)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}(?![0-9a-fA-F])")
_INTEGER = re.compile(rb"-?\d+")

RawRow = dict[str, msgspec.Raw]


class _Unusable(Exception):
    """This file is not a recorded answer; the text says why."""


@dataclass(frozen=True, slots=True)
class _Row:
    time_ms: int
    members: RawRow  # the fill's
    twap_id: msgspec.Raw | None = None  # set on rows of userTwapSliceFills

    def same_as(self) -> tuple[object, ...]:
        """What makes two recordings of a row equal: all members, in any order."""
        return (self.twap_id and bytes(self.twap_id), *sorted((k, bytes(v)) for k, v in self.members.items()))

    def text(self, shift_ms: int) -> str:
        members: dict[str, object] = dict(self.members)
        if shift_ms:
            members["time"] = self.time_ms + shift_ms
        row = members if self.twap_id is None else {"fill": members, "twapId": self.twap_id}
        return msgspec.json.encode(row).decode()


@dataclass(frozen=True, slots=True)
class RecordedUser:
    """What one recorded user answers with."""

    fills: History
    twap_slices: History
    shift_ms: int = 0


@dataclass(frozen=True)
class Recording:
    """Recorded users by lower-case address, the address of each file, and why files were skipped."""

    users: dict[str, RecordedUser] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path | str, shift_into_end_ms: int | None = None) -> Recording:
        """Read all `*.json` of a directory.

        With `shift_into_end_ms` all rows of a user move by one whole number of ms, so that the
        newest lies one ms before it. Raises: UsageError when there is no such directory.
        """
        folder = Path(directory)
        if not folder.is_dir():
            raise UsageError(f"there is no directory {folder}", hint="give a folder with recorded *.json answers")
        recording = cls()
        answers: dict[str, list[list[_Row]]] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                pages = _read(path)
            except (_Unusable, msgspec.DecodeError, UnicodeDecodeError, OSError) as reason:
                recording.skipped[path.name] = str(reason)
                _log.warning("skipped %s: %s", path.name, reason)
                continue
            address = _address_of(path.name)
            recording.files[path.name] = address
            answers.setdefault(address, []).extend(pages)
        for address, pages in answers.items():
            recording.users[address] = _user(pages, shift_into_end_ms)
        return recording


def _address_of(name: str) -> str:
    match = _ADDRESS.search(name)
    return match[0].lower() if match else "0x" + hashlib.sha256(name.encode()).hexdigest()[:40]


def _read(path: Path) -> list[list[_Row]]:
    """The answers in a file, each oldest first."""
    text = path.read_bytes().strip()
    if text.startswith(b"["):
        lists = [text]
    elif text.startswith(b"{"):
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if not {"page1_tail", "page2_head"} <= members.keys():
            raise _Unusable("an object without page1_tail and page2_head")
        lists = [bytes(members["page1_tail"]), bytes(members["page2_head"])]
    else:
        raise _Unusable("neither a JSON array nor an object")
    return [_oldest_first([_row(raw) for raw in _objects(part)]) for part in lists]


def _objects(text: bytes) -> list[RawRow]:
    rows: list[RawRow] = msgspec.json.decode(text, type=list[dict[str, msgspec.Raw]])
    if len({"fill" in row for row in rows}) > 1:
        raise _Unusable("fills and {fill, twapId} rows in one array")
    return rows


def _row(members: RawRow) -> _Row:
    twap_id = None
    if "fill" in members:
        twap_id = members.get("twapId", msgspec.Raw(b"null"))
        members = msgspec.json.decode(members["fill"], type=dict[str, msgspec.Raw])
    time = bytes(members.get("time", b""))
    if _INTEGER.fullmatch(time) is None or "coin" not in members:
        raise _Unusable("a row without a coin and a whole number as time")
    return _Row(int(time), {key: msgspec.Raw(bytes(value)) for key, value in members.items()}, twap_id)


def _oldest_first(rows: list[_Row]) -> list[_Row]:
    """Undo newest-first answers (also inside a millisecond); sort what has no order by time, stably."""
    times = [row.time_ms for row in rows]
    falls = any(later < earlier for earlier, later in pairwise(times))
    rises = any(later > earlier for earlier, later in pairwise(times))
    if falls and not rises:
        return rows[::-1]
    return sorted(rows, key=lambda row: row.time_ms) if falls else rows


def _merge(pages: Iterable[list[_Row]]) -> list[_Row]:
    """One history from overlapping answers; a row that one answer holds twice stays twice.

    The answer that begins first goes first: where a millisecond is split over two answers it
    holds the whole, or the beginning of it, so appending what is new keeps execution order.
    """
    merged: list[_Row] = []
    held: Counter[tuple[object, ...]] = Counter()
    for page in sorted(pages, key=lambda rows: rows[0].time_ms if rows else 0):
        seen: Counter[tuple[object, ...]] = Counter()
        for row in page:
            identity = row.same_as()
            seen[identity] += 1
            if seen[identity] > held[identity]:
                merged.append(row)
        held |= seen
    return sorted(merged, key=lambda row: row.time_ms)


def _user(pages: list[list[_Row]], shift_into_end_ms: int | None) -> RecordedUser:
    fills = _merge(page for page in pages if page and page[0].twap_id is None)
    slices = _merge(page for page in pages if page and page[0].twap_id is not None)
    shift_ms = 0
    if shift_into_end_ms is not None and (fills or slices):
        shift_ms = shift_into_end_ms - 1 - max(row.time_ms for row in (*fills, *slices))
    return RecordedUser(_history(fills, shift_ms), _history(slices, shift_ms), shift_ms)


def _history(rows: list[_Row], shift_ms: int) -> History:
    return History([row.time_ms + shift_ms for row in rows], [row.text(shift_ms) for row in rows])
