"""Read-only questions to the database: what is known, done, failed, rejected and missing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from typing import Any

from vigil.db import Connection, sql
from vigil.errors import Fault


@dataclass(frozen=True)
class Status:
    """The state of the whole backfill, all workers together, from the database alone."""

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
    """Workers by address: lane, workers, share_weight (a period), used_weight (of the last one)."""
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


async def read_status(connection: Connection) -> Status:
    """Ask for the status in one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        totals = await connection.fetchrow(sql("status_totals"))
        counted = {row["kind"]: row["count"] for row in await connection.fetch(sql("status_faults"))}
        lanes = await connection.fetch(sql("status_lanes"))
        verdicts = await connection.fetch(sql("status_verdicts"))
        unjudged = await connection.fetchval(sql("status_unjudged"))
        losing = await connection.fetchrow(sql("urgency_status"))
        stale = await connection.fetchrow(sql("upkeep_stale"))
        errors = await connection.fetch(sql("status_errors"))
    assert totals is not None  # noqa: S101  aggregates always have a row
    assert losing is not None  # noqa: S101
    return Status(
        **dict(totals),
        **dict(losing),
        faults={kind: counted.get(kind, 0) for kind in Fault} | counted,
        lanes=[dict(row) for row in lanes],
        verdicts=[dict(row) for row in verdicts],
        unjudged=unjudged,
        daily_stale=None if stale is None or stale["from_ms"] is None else dict(stale),
        errors=[dict(row) for row in errors],
    )


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
