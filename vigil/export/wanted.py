"""What an export is asked for, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Protocol

COLUMNS = (
    "user_address", "time", "coin", "side", "px", "sz", "start_position", "closed_pnl", "fee", "dir", "hash", "oid",
    "crossed", "fee_token", "tid", "twap_id", "cloid", "builder_fee", "liquidation", "block_time", "seq", "extra",
)  # fmt: skip
"""All of the table `fills`, in the order of `export_fills.sql`. What tells the partition comes first."""

AMOUNTS = ("px", "sz", "start_position", "closed_pnl", "fee", "builder_fee")

SPAN_ROWS = 500_000
"""Rows that the server may have to sort at once (some 170 MB), by its own estimate."""
SPANS = 4096
"""At most so many spans: each is a statement, and planning one over a hundred chunks takes 10 ms."""
NAMED_AT_ONCE = 10_000
"""Users named in one statement."""


class Format(StrEnum):
    """How rows are written."""

    PARQUET = "parquet"
    CSV = "csv"


class Partition(StrEnum):
    """What shares a file."""

    MONTH = "month"  # of `time`, UTC
    USER = "user"
    NONE = "none"  # everything


class Numbers(StrEnum):
    """How amounts are written to Parquet; CSV has the server's text."""

    DECIMAL = "decimal"  # decimal128(38, 18)
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An export: its rows and its form. The window is [start, end) in ms, None without a bound."""

    format: Format = Format.PARQUET
    partition: Partition = Partition.MONTH
    numbers: Numbers = Numbers.DECIMAL
    start_ms: int | None = None
    end_ms: int | None = None
    users: Sequence[str] | None = None
    gzip: bool = False

    @property
    def suffix(self) -> str:
        return f".{self.format}{'.gz' if self.gzip else ''}"

    @property
    def bounds(self) -> tuple[datetime | None, datetime | None]:
        return moment(self.start_ms), moment(self.end_ms)


@dataclass(frozen=True, slots=True)
class Span:
    """Users whose rows are read at once: from `first` up to `last` (exclusive), among `users` if any are named."""

    first: str | None = None
    last: str | None = None
    users: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is whole; `path` as seen from the export's directory."""

    path: str
    rows: int
    bytes: int


@dataclass(slots=True)
class Progress:
    """How far an export is. `expected_rows` is the planner's guess."""

    rows: int = 0
    bytes: int = 0
    spans_done: int = 0
    spans: int = 0
    expected_rows: int = 0


@dataclass(slots=True)
class Exported:
    """What came out; `as_dict` is the manifest."""

    wanted: Wanted
    created_by: str
    snapshot_at: datetime
    rows: int = 0
    files: list[Written] = field(default_factory=list)
    with_rows: dict[str, int] = field(default_factory=dict)
    """Users that have rows in the export, by verdict; or not_judged, not_read (to the end), not_known (to the
    backfill: their rows come from archives)."""
    without_rows: dict[str, int] = field(default_factory=dict)
    """The same of users that were meant too, and have none."""
    read_for_less: int = 0
    """Users read to the end of a window that does not hold all of the export's."""
    strangers: list[str] = field(default_factory=list)
    """Users named that nothing is known of."""
    gaps: int = 0
    rejected_rows: int = 0

    LISTED = 10_000
    """With more files than this the manifest only counts them."""

    @property
    def users(self) -> int:
        return sum(self.with_rows.values())

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        listed = len(self.files) <= self.LISTED
        return {
            **described(self.wanted, self.created_by, self.snapshot_at),
            "rows": self.rows,
            "users": self.users,
            "completeness": {
                "users_with_rows": self.with_rows,
                "users_without_rows": self.without_rows,
                "users_read_for_less_than_the_window": self.read_for_less,
                "users_named_but_not_known": len(self.strangers),
                "recorded_gaps": self.gaps,
                "rejected_rows": self.rejected_rows,
            },
            "file_count": len(self.files),
            "files": [{"path": f.path, "rows": f.rows, "bytes": f.bytes} for f in self.files] if listed else None,
        }


class Sink(Protocol):
    """Rows become files. Called from one thread at a time."""

    def write(self, block: bytes) -> None:
        """Take whole rows of CSV, which go on where the block before ended."""

    def close(self) -> list[Written]:
        """Finish all files and tell them."""

    def abandon(self) -> None:
        """Let go of all files; they are of no use."""


def described(wanted: Wanted, created_by: str, snapshot_at: datetime) -> dict[str, Any]:
    """What is known of an export before its first row; in the footer of each Parquet file too."""
    start, end = wanted.bounds
    return {
        "export_of": "fills",
        "created_by": created_by,
        "snapshot_at": snapshot_at.astimezone(UTC).isoformat(),
        "window": {"start": start and start.isoformat(), "end_exclusive": end and end.isoformat()},
        "users_named": None if wanted.users is None else len(wanted.users),
        "format": str(wanted.format),
        "partition": str(wanted.partition),
        "numbers": str(wanted.numbers) if wanted.format is Format.PARQUET else "text",
    }


def spans(expected_rows: int, users: Sequence[str] | None) -> Iterator[Span]:
    """Divide an export of so many rows, in the order of addresses; together the spans are everybody (or all `users`).

    Addresses are hashes, spread evenly; what does not look like one lies before the first or behind the last edge.
    """
    parts = min(max(1, -(-expected_rows // SPAN_ROWS)), SPANS)
    if users is None:
        edges = [None, *(f"0x{part * 65536 // parts:04x}" for part in range(1, parts)), None]
        for first, last in pairwise(edges):
            yield Span(first, last)
        return
    ordered = sorted(users)
    size = min(max(1, -(-len(ordered) // parts)), NAMED_AT_ONCE)
    for place in range(0, len(ordered), size):
        yield Span(users=ordered[place : place + size])


def moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
