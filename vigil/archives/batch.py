"""What travels between reading and committing: batches, places, the scope."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vigil.copy_text import Stretch, stretches_of
from vigil.fills import LATEST_MS, Rejected

DIGEST_BYTES = 16


class Place(NamedTuple):
    """A place between two lines: bytes of text (rows, of Parquet) and lines before it, and their digest."""

    bytes_done: int
    lines_done: int
    digest: bytes


BEGINNING = Place(0, 0, hashlib.blake2b(digest_size=DIGEST_BYTES).digest())


class BatchSize(NamedTuple):
    """A batch is closed at so many rows or bytes of COPY text, whichever comes first."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows are wanted: [start_ms, end_ms), of these users; None is all of them."""

    start_ms: int = 0
    end_ms: int = LATEST_MS + 1
    users: Collection[str] | None = None

    @property
    def name(self) -> str:
        """By what the manifest knows it: '' is everything."""
        if self == EVERYTHING:
            return ""
        users = ""
        if self.users is not None:
            users = f" of {hashlib.sha256(' '.join(sorted(self.users)).encode()).hexdigest()[:16]}"
        return f"[{self.start_ms}, {self.end_ms}){users}"

    def wants(self, user: str, time_ms: int) -> bool:
        return self.start_ms <= time_ms < self.end_ms and (self.users is None or user in self.users)


EVERYTHING = Scope()


@dataclass(slots=True)
class Batch:
    """Rows to commit together, and how far the file is in when they are.

    `lines` is COPY text, sorted, so that loads side by side touch the same keys in the same order; `stretches` tell
    whose they are. `passed_over` rows are outside of the scope. `last`: the file goes no further; then `error`
    tells what is wrong with it there, if anything is. `raw_bytes` of the file have been read so far.
    """

    place: Place
    lines: bytes = b""
    stretches: Sequence[Stretch] = ()
    rejected: tuple[tuple[str, Rejected], ...] = ()
    passed_over: int = 0
    last: bool = False
    error: str | None = None
    raw_bytes: int = 0

    @property
    def rows(self) -> int:
        return sum(stretch.rows for stretch in self.stretches)

    @property
    def users(self) -> list[str]:
        return [stretch.user for stretch in self.stretches]


def batch_of(
    lines: list[str], place: Place, rejected: Sequence[tuple[str, Rejected]], passed_over: int, **end: Any
) -> Batch:
    """A batch of these lines, which it sorts."""
    lines.sort()
    return Batch(place, "".join(lines).encode(), stretches_of(lines), tuple(rejected), passed_over, **end)
