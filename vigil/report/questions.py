"""What a report asks the database: aggregates, in one snapshot, whatever else is going on.

Costs a few passes over `backfill_progress` (a second or two a million users) and one over `fills_daily`, or over
`fills` where that is not up to date; nothing is written and nothing locked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import Any

from vigil.db import Connection, sql
from vigil.hypertable import read_shape
from vigil.report import coverage
from vigil.report.data import (
    Database,
    FailedUser,
    FaultCount,
    GapCount,
    HistoryBin,
    Lane,
    Month,
    Point,
    Rejected,
    Report,
    Rows,
    Runs,
    SlowUser,
    Users,
    VerdictCount,
)
from vigil.report.words import caveats
from vigil.verdict import Verdict

HISTORY_EDGES = (0, 1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Fills of a user from which on each bin counts: by halves of a power of ten, and nothing at all by itself."""

MOST_POINTS = 240
"""Of a chart over time: what a phone or a page of paper still shows apart."""

MOST_LANES = 20

_SPANS = (1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30)), *(3600 * n for n in (1, 2, 3, 6, 12, 24, 48)))

Tell = Callable[[str], object]
_Months = dict[int, tuple[int, Decimal]]


async def read_report(connection: Connection, tell: Tell = lambda _: None) -> Report:
    """Ask for everything; `tell` hears what is being asked for, for large databases take their time."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL jit = off")  # compiling takes longer than any of these does
        asked = await connection.fetchrow(sql("report_database"))
        assert asked is not None  # noqa: S101  it always has a row
        tell("counting users")
        people = _People.of(await connection.fetch(sql("report_users"), HISTORY_EDGES))
        tell("adding up fills")
        by_month, rows = await _read_rows(connection, people.fills)
        tell("placing users in months")
        months, outside = await _read_months(connection, asked["made_at"], people, by_month)
        tell("looking at the runs")
        report = Report(
            made_at=asked["made_at"],
            vigil=version("vigil-backfill"),
            database=Database(
                asked["name"], asked["server"], asked["timescaledb"], (await read_shape(connection)).hypertable
            ),
            window=people.window,
            users=people.users,
            rows=replace(rows, outside_axis=outside),
            months=months,
            verdicts=people.verdicts,
            history=people.history,
            runs=await _read_runs(connection),
            faults=[FaultCount(**row) for row in await connection.fetch(sql("status_faults")) if row["count"]],
            gaps=[GapCount(**row) for row in await connection.fetch(sql("report_gaps"))],
            rejected=await _read_rejected(connection),
            slowest=[SlowUser(**row) for row in await connection.fetch(sql("report_slowest"))],
            failed=[
                FailedUser(row["user_address"], row["attempts"], row["last_error"], row["failed_at"])
                for row in await connection.fetch(sql("status_errors"))
            ],
            caveats=[],
        )
    return replace(report, caveats=caveats(report))


@dataclass(frozen=True, slots=True)
class _People:
    """What `report_users.sql` answers, put together in several ways."""

    users: Users
    fills: int
    window: tuple[datetime, datetime] | None
    verdicts: list[VerdictCount]
    history: list[HistoryBin]

    @classmethod
    def of(cls, groups: Sequence[Any]) -> _People:
        states: dict[str, int] = defaultdict(int)
        bins: dict[int, int] = defaultdict(int)
        for group in groups:
            states[group["state"]] += group["users"]
            if group["state"] == "completed":
                bins[group["bin"]] += group["users"]
        starts = [group["start_ms"] for group in groups if group["start_ms"] is not None]
        ends = [group["end_ms"] for group in groups if group["end_ms"] is not None]
        return cls(
            Users(
                total=sum(states.values()),
                declared=sum(group["declared"] for group in groups),
                **{state: states[state] for state in ("completed", "claimed", "pending", "failed")},
            ),
            fills=sum(group["fills"] for group in groups),
            window=(_instant(min(starts)), _instant(max(ends))) if starts and ends else None,
            verdicts=_verdicts(groups),
            history=[
                HistoryBin(edge, below, bins[place])
                for place, (edge, below) in enumerate(zip(HISTORY_EDGES, (*HISTORY_EDGES[1:], None), strict=True), 1)
            ],
        )


def _verdicts(groups: Sequence[Any]) -> list[VerdictCount]:
    """By verdict, all of them, in their order; then the users that have none."""
    users, fills = dict.fromkeys((*Verdict, "not_judged", "not_read"), 0), defaultdict[str, int](int)
    notional: dict[str, Decimal] = {}
    for group in groups:
        judged = group["verdict"]
        word = judged or ("not_judged" if group["state"] == "completed" else "not_read")
        users[word] += group["users"]
        fills[word] += group["fills"]
        if judged is not None and group["notional"] is not None:
            notional[word] = notional.get(word, Decimal(0)) + group["notional"]
    return [VerdictCount(str(word), count, fills[word], notional.get(word)) for word, count in users.items()]


async def _read_rows(connection: Connection, by_backfill: int) -> tuple[_Months, Rows]:
    """Fills and volume by month: from `fills_daily` as far as it is up to date, the rest from the rows."""
    shape = await read_shape(connection)
    behind = (
        await connection.fetch(sql("report_days_behind")) if shape.daily == "ours" and shape.daily_aggregate else None
    )
    spans = [(row["from_time"], row["until_time"]) for row in behind or ()]
    days = sum(((until - since) / timedelta(days=1) for since, until in spans), 0.0)
    if behind is None:
        source, found = "fills", await connection.fetch(sql("report_rows"))
    else:
        source = "fills_daily"
        found = await connection.fetch(sql("report_daily"), [one for one, _ in spans], [one for _, one in spans])
    by_month = {coverage.number(row["month"]): (row["fills"], row["volume"]) for row in found}
    total = sum(fills for fills, _ in by_month.values())
    volume = sum((volume for _, volume in by_month.values()), Decimal(0))
    return by_month, Rows(total, volume, by_backfill, source, round(days), outside_axis=0)


async def _read_months(
    connection: Connection, made_at: datetime, people: _People, by_month: _Months
) -> tuple[list[Month], int]:
    """The months, and how many fills lie outside of them."""
    shape = coverage.axis(made_at, people.window, by_month)
    groups: Sequence[Any] = await connection.fetch(sql("report_coverage"), shape.edges_ms) if shape.edges_ms else []
    outside = sum(fills for month, (fills, _) in by_month.items() if month not in shape)
    return coverage.months(shape, by_month, groups, people.users.total), outside


async def _read_runs(connection: Connection) -> Runs | None:
    lanes = await connection.fetch(sql("report_lanes"))
    if not lanes:
        return None
    first_at, last_at = min(row["first_at"] for row in lanes), max(row["last_at"] for row in lanes)
    usual = sum(row["seconds"] for row in lanes) / sum(row["samples"] for row in lanes)
    span = span_seconds((last_at - first_at).total_seconds(), usual)
    counted = ("requests", "pauses", "inserted", "received", "users_done", "users_failed")
    return Runs(
        first_at,
        last_at,
        span,
        [Point(**row) for row in await connection.fetch(sql("report_samples"), float(span))],
        {name: sum(row[name] for row in lanes) for name in ("allowed_weight", "spent_weight", *counted)},
        [
            Lane(*(row[name] for name in ("lane", "workers", "seconds", "allowed_weight", "spent_weight")))
            for row in lanes[:MOST_LANES]
        ],
        max(0, len(lanes) - MOST_LANES),
    )


def span_seconds(whole_seconds: float, usual_seconds: float) -> float:
    """How long the span of a point is: a round number, no shorter than a sample, and not too many for the whole."""
    for span in _SPANS:
        if span >= usual_seconds * 0.99 and whole_seconds / span <= MOST_POINTS:
            return span
    days = -(-max(usual_seconds, whole_seconds / MOST_POINTS) // 86_400)
    return float(days * 86_400)


async def _read_rejected(connection: Connection) -> Rejected:
    found = await connection.fetch(sql("report_rejected"))
    if not found:
        return Rejected(0, [], 0)
    reasons = [{"reason": row["reason"], "rows": row["rows"]} for row in found]
    return Rejected(found[0]["all_rows"], reasons, found[0]["reasons"] - len(reasons))


def _instant(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
