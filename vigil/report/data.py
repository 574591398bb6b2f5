"""What a report tells. `Report.as_dict` is the schema of `report --json` (docs/report.md); pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

VERSION = 1
"""Of the schema: within a version, fields are only added."""


class Standing(StrEnum):
    """What is known of one user's fills of one month; each user counts as exactly one of them."""

    PROVEN = "proven"  # read, and the user's history is proven to be complete
    NOTHING_MISSING = "nothing_missing"  # read, nothing known to be missing, and no proof
    OUT_OF_REACH = "out_of_reach"  # read, but what there was before the oldest fill held can't be had
    HOLES = "holes"  # read, but fills of this user are missing somewhere
    NOT_READ = "not_read"  # the month was not read as a whole: not yet, or not asked for


class Reading(StrEnum):
    """How many users a month was read for: what it means that it has few fills, or none."""

    ALL = "all"
    SOME = "some"
    NONE = "none"
    OUTSIDE = "outside"  # it lies outside the windows: nobody was asked


@dataclass(frozen=True, slots=True)
class Database:
    name: str
    server: str
    timescaledb: str | None
    """Its version."""
    hypertable: bool


@dataclass(frozen=True, slots=True)
class Users:
    total: int
    completed: int
    claimed: int
    pending: int
    failed: int
    declared: int
    """Of the completed: without a window, so declared complete by hand."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The fills there are."""

    total: int
    volume: Decimal
    """Sum of price times size."""
    by_backfill: int
    """Of them, those that the backfill added; the others are from archives, or were there before."""
    source: str
    """Counted from: `fills`, `fills_daily`."""
    days_behind: int
    """Days for which `fills_daily` is not up to date: counted from `fills`, so that the numbers are right."""
    outside_axis: int
    """Fills of months so far off that `months` leaves them out."""


@dataclass(frozen=True, slots=True)
class Month:
    month: str
    """2024-03, UTC."""
    fills: int
    volume: Decimal
    read: Reading
    users: dict[Standing, int] | None
    """None: outside the windows."""


@dataclass(frozen=True, slots=True)
class VerdictCount:
    verdict: str
    """One of `vigil.verdict.Verdict`, or not_judged (yet), or not_read (to the end)."""
    users: int
    fills: int
    notional: Decimal | None
    """Of the users judged; None where nobody is."""


@dataclass(frozen=True, slots=True)
class HistoryBin:
    """Users read to their end with that many fills."""

    at_least: int
    below: int | None
    users: int


@dataclass(frozen=True, slots=True)
class Point:
    """What happened in one span of the runs; shared out by time, so not always whole."""

    at: datetime
    """Its beginning."""
    allowed_weight: float
    spent_weight: float
    requests: float
    pauses: float
    inserted: float
    received: float
    users_done: float
    users_failed: float
    other_faults: float


@dataclass(frozen=True, slots=True)
class Lane:
    lane: str
    workers: int
    seconds: float
    """Told by samples, all workers added up."""
    allowed_weight: int
    spent_weight: int


@dataclass(frozen=True, slots=True)
class Runs:
    """How the runs went, as far as their workers told it (`backfill_samples`)."""

    first_at: datetime
    last_at: datetime
    span_seconds: float
    """Length of each point's span."""
    points: list[Point]
    """In time order; a span without one: nobody was at work, or nobody told."""
    totals: dict[str, int]
    """allowed_weight, spent_weight, requests, pauses, inserted, received, users_done, users_failed"""
    lanes: list[Lane]
    """The most used, at most 20."""
    lanes_left_out: int


@dataclass(frozen=True, slots=True)
class FaultCount:
    kind: str
    count: int
    newest_at: datetime


@dataclass(frozen=True, slots=True)
class GapCount:
    kind: str
    gaps: int
    users: int


@dataclass(frozen=True, slots=True)
class Rejected:
    rows: int
    reasons: list[dict[str, Any]]
    """reason, rows; the most frequent, at most ten"""
    reasons_left_out: int


@dataclass(frozen=True, slots=True)
class SlowUser:
    user: str
    fills: int
    started_at: datetime
    completed_at: datetime
    seconds: float
    verdict: str | None


@dataclass(frozen=True, slots=True)
class FailedUser:
    user: str
    attempts: int
    error: str | None
    failed_at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    made_at: datetime
    vigil: str
    database: Database
    window: tuple[datetime, datetime] | None
    """From the earliest start to the latest end (exclusive) that a user was to be read for; None: nobody was yet."""
    users: Users
    rows: Rows
    months: list[Month]
    verdicts: list[VerdictCount]
    history: list[HistoryBin]
    runs: Runs | None
    """None: no worker told anything."""
    faults: list[FaultCount]
    gaps: list[GapCount]
    rejected: Rejected
    slowest: list[SlowUser]
    failed: list[FailedUser]
    """The newest, at most ten."""
    caveats: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: instants as ISO 8601 in UTC, exact amounts as text."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {"v": VERSION, **plain}


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case Decimal():
            return format(value, "f")
        case float():
            return round(value, 3)
    return value
