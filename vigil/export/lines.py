"""Rows as CSV: the server's own text, byte for byte, and which file each row belongs to.

NULL is nothing, the empty string is `""`; JSON is text; times are UTC. `COPY fills (…) FROM … (FORMAT csv, HEADER)`
reads it back as it was.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from itertools import groupby
from typing import IO
from urllib.parse import quote

from vigil.export.output import Output
from vigil.export.place import Place
from vigil.export.wanted import COLUMNS, Partition, Wanted, Written

HEADER = (",".join(COLUMNS) + "\n").encode()
GZIP_LEVEL = 4
"""Twice as fast as 6, and 4 % larger."""


class CsvFiles:
    """A `Sink` of CSV files: one, one a month, or one a user after the other."""

    def __init__(self, place: Place, wanted: Wanted) -> None:
        self._place = place
        self._wanted = wanted
        self._open: dict[str, _File] = {}
        self._written: list[Written] = []
        if wanted.partition is Partition.NONE:
            self._file("")

    def write(self, block: bytes) -> None:
        if self._wanted.partition is Partition.NONE:
            self._file("").write(block, rows_in(block))
            return
        key = month_of if self._wanted.partition is Partition.MONTH else user_of
        parts: dict[str, list[bytes]] = {}
        for part, rows in groupby(records(block), key=key):
            parts.setdefault(part, []).extend(rows)
        for part, lines in parts.items():
            if self._wanted.partition is Partition.USER and part not in self._open:
                self._finish()
            self._file(part).write(b"".join(lines), len(lines))

    def close(self) -> list[Written]:
        self._finish()
        return self._written

    def abandon(self) -> None:
        for file in self._open.values():
            file.abandon()

    def _file(self, part: str) -> _File:
        if part not in self._open:
            self._open[part] = _File(self._place, path_of(self._wanted, part), gzipped=self._wanted.gzip)
        return self._open[part]

    def _finish(self) -> None:
        while self._open:
            part = next(iter(self._open))
            self._written.append(self._open[part].close())
            del self._open[part]


class _File:
    def __init__(self, place: Place, name: str, *, gzipped: bool) -> None:
        self._rows = 0
        self._output: Output = place.create(name)
        self._text: IO[bytes] | gzip.GzipFile = self._output
        if gzipped:
            # No name and no time in its header: the same rows make the same file.
            self._text = gzip.GzipFile("", "wb", GZIP_LEVEL, self._output, mtime=0)
        self._text.write(HEADER)

    def write(self, lines: bytes, rows: int) -> None:
        self._text.write(lines)
        self._rows += rows

    def close(self) -> Written:
        if self._text is not self._output:
            self._text.close()
        self._output.settle()
        return Written(self._output.path, self._rows, self._output.size)

    def abandon(self) -> None:
        self._output.forget()
        self._text.close()
        self._output.close()


def path_of(wanted: Wanted, part: str) -> str:
    """Where the rows of `part` (a month, a user) go, as engines that know Hive's directories expect it."""
    if wanted.partition is Partition.NONE:
        return f"fills{wanted.suffix}"
    name = "month" if wanted.partition is Partition.MONTH else "user_address"
    return f"{name}={quote(part, safe='')}/fills{wanted.suffix}"


def records(block: bytes) -> Iterator[bytes]:
    """The rows of `block`; one with line breaks in its text is one row."""
    row = b""
    for line in block.splitlines(keepends=True):
        row += line
        if b'"' not in row or row.count(b'"') % 2 == 0:
            yield row
            row = b""


def rows_in(block: bytes) -> int:
    return sum(1 for _ in records(block)) if b'"' in block else block.count(b"\n")


def user_of(record: bytes) -> str:
    return _fields(record)[0]


def month_of(record: bytes) -> str:
    return "-".join(_fields(record)[1].split("-", 2)[:2])


def _fields(record: bytes) -> list[str]:
    """The first two fields at least."""
    if record.startswith(b'"'):
        return next(csv.reader([record.decode()]))
    return [field.decode() for field in record.split(b",", 2)[:2]]
