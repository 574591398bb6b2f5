"""Read-only questions to the database: what is known, done, failed, rejected and missing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from vigil.db import Connection, seconds, sql
from vigil.errors import Fault
from vigil.forecast import Left, Sample, fleet_left
from vigil.verdict import Verdict

LATELY_SECONDS = 900.0
"""What pace and utilisation are told of."""

SILENT_SECONDS = 150.0
"""Samples come once a minute; where none has come for so long, nobody is at work."""

STATES = ("completed", "claimed", "pending", "failed")


@dataclass(frozen=True)
class Status:
    """The state of the whole backfill, all workers together, from the database alone."""

    at: datetime
    users: int
    completed: int
    claimed: int
    pending: int
    failed: int
    fills: int
    """Rows that the backfill added to `fills`."""
    oldest_fill_time: int | None
    """ms since epoch"""
    rejected_fills: int
    gaps: int
    users_with_gaps: int
    workers_alive: int
    workers_dead: int
    workers: list[dict[str, Any]]
    """host, pid, lanes, alive, started_at, heard_at (when it last renewed its lease)."""
    timescaledb: bool
    users_losing: int
    """Users to be read whose history is being pushed out of reach, by the newest estimate (vigil.urgency)."""
    lost_per_hour: float
    """Fills that they are expected to lose with each hour of delay."""
    fills_at_stake: int
    """Fills of theirs that are expected to be within reach still."""
    faults: dict[str, int]
    """What the exchange did wrong so far, by `vigil.errors.Fault`: also what a retry then put right."""
    lanes: list[dict[str, Any]]
    """Workers by address: lane, workers, workers_alive, share_weight (a period), used_weight (of the last one),
    weight_per_second (what those alive may spend), utilisation (spent of what was allowed lately; None: not told)."""
    pace: dict[str, Any] | None
    """What all workers did within the last 15 minutes: seconds, rows, users, weight, allowed_weight, requests, pauses
    (429s), rows_per_second, users_per_hour, utilisation. None: nothing."""
    users_left: int
    """Users that are to be read, or to be tried again."""
    weight_left: dict[str, float] | None
    """What those to be read will weigh: low, expected, high (vigil.forecast). None: too few were read to tell."""
    eta_seconds: dict[str, float] | None
    """The same at the budget of the workers that are alive. None: nobody is, or it can't be told."""
    verdicts: list[dict[str, Any]]
    """Judged users by verdict: verdict, users, fills, notional, users_with_volume (those whose lifetime volume the
    exchange told), captured_share (of theirs; None without any)."""
    unjudged: int
    """Users read to their end that await their verdict."""
    daily_stale: dict[str, int] | None
    """Where `fills_daily` answers from before the newest rows: from_ms, to_ms (exclusive). None: nowhere."""
    errors: list[dict[str, Any]]
    """Failed users, newest first, at most ten: user_address, attempts, last_error, failed_at."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def read_status(connection: Connection, *, attempts: int | None = None) -> Status:
    """Ask for the status in one snapshot; users that have failed so often are not to be read again (None: never)."""
    lately = seconds(LATELY_SECONDS)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        counted = Counted([dict(row) for row in await connection.fetch(sql("status_counts"))])
        totals = await connection.fetchrow(sql("status_totals"))
        faults = {row["kind"]: row["count"] for row in await connection.fetch(sql("status_faults"))}
        workers = [dict(row) for row in await connection.fetch(sql("status_workers"))]
        lanes = [dict(row) for row in await connection.fetch(sql("status_lanes"), lately)]
        pace = await connection.fetchrow(sql("status_pace"), lately, seconds(SILENT_SECONDS))
        losing = await connection.fetchrow(sql("urgency_status"))
        stale = await connection.fetchrow(sql("upkeep_stale"))
        errors = await connection.fetch(sql("status_errors"))
    assert totals is not None  # noqa: S101  aggregates always have a row
    assert losing is not None  # noqa: S101
    left = counted.left(attempts)
    weight = fleet_left(left)
    speed = sum(lane["weight_per_second"] for lane in lanes)
    return Status(
        **dict(totals),
        **dict(losing),
        **counted.users_by_state(),
        fills=counted.total("rows", what="users"),
        rejected_fills=counted.total("rows", what="rejected_fills"),
        gaps=counted.total("rows", what="gaps"),
        users_with_gaps=counted.total("users", what="gaps"),
        workers_alive=sum(worker["alive"] for worker in workers),
        workers_dead=sum(not worker["alive"] for worker in workers),
        workers=workers,
        faults={kind: faults.get(kind, 0) for kind in Fault} | faults,
        lanes=lanes,
        pace=None if pace is None else _paced(dict(pace)),
        users_left=sum(group.users for group in left),
        weight_left=None if weight is None else asdict(weight),
        eta_seconds=None if weight is None or not speed else asdict(weight / speed),
        verdicts=counted.verdicts(),
        unjudged=counted.total("users", what="users", unjudged=True),
        daily_stale=None if stale is None or stale["from_ms"] is None else dict(stale),
        errors=[dict(row) for row in errors],
    )


class Counted:
    """The counters, a dict a group (sql/status_counts.sql), added up."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self._groups = groups

    def total(self, column: str, **of: Any) -> Any:
        """The sum of a column over the groups whose columns have these values."""
        return sum(group[column] for group in self._groups if all(group[name] == of[name] for name in of))

    def users_by_state(self) -> dict[str, Any]:
        """`users` is all of them."""
        by_state = {state: self.total("users", what="users", state=state) for state in STATES}
        return {"users": sum(by_state.values()), **by_state}

    def verdicts(self) -> list[dict[str, Any]]:
        """Judged users, as `Status.verdicts` tells them, in the order of the words of `vigil.verdict`."""
        return [self._verdict(word) for word in Verdict if self.total("users", what="users", verdict=word)]

    def _verdict(self, word: Verdict) -> dict[str, Any]:
        columns = ("users", "rows", "notional", "users_with_volume", "volume_notional", "volume")
        users, fills, notional, known, theirs, volume = (
            self.total(name, what="users", verdict=word) for name in columns
        )
        return {
            "verdict": str(word),
            "users": users,
            "fills": fills,
            "notional": notional,
            "users_with_volume": known,
            "captured_share": theirs / volume if known else None,
        }

    def left(self, attempts: int | None) -> list[Left]:
        """Who is to be read, and what those weighed that were: who loses history apart, for they are heavy.

        A user that was read in part counts whole; `plan` counts what is left of each.
        """
        return [self._left(attempts, urgent=urgent) for urgent in (True, False)]

    def _left(self, attempts: int | None, *, urgent: bool) -> Left:
        count, weight, squares = (
            self.total(name, what="users", urgent=urgent) for name in ("users_read", "weight", "weight_squares")
        )
        users = sum(
            group["users"]
            for group in self._groups
            if group["what"] == "users"
            and group["urgent"] == urgent
            and group["state"] != "completed"
            and (group["state"] != "failed" or attempts is None or group["attempts"] < attempts)
        )
        return Left(users, Sample.of(count, float(weight), float(squares)))


def _paced(found: dict[str, Any]) -> dict[str, Any] | None:
    if not found["seconds"]:
        return None
    return {
        **found,
        "rows_per_second": found["rows"] / found["seconds"],
        "users_per_hour": found["users"] / found["seconds"] * 3600,
        "utilisation": found["weight"] / found["allowed_weight"] if found["allowed_weight"] else None,
    }


@dataclass(frozen=True, slots=True)
class FailedUser:
    """A failed user, and the window it was to be read for, ms since epoch, end exclusive."""

    user: str
    start_ms: int
    end_ms: int


async def failed_users(connection: Connection) -> list[FailedUser]:
    """All failed users, parked ones included."""
    return [FailedUser(*row) for row in await connection.fetch(sql("failed_users"))]


async def list_users(connection: Connection, state: str | None) -> AsyncGenerator[dict[str, Any], None]:
    """Every known user (of one state), by address, streamed."""
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(sql("list_users"), state, prefetch=1000):
            yield dict(row)
