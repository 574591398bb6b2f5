"""Reports made up for tests: a whole one, with texts in it that would like to be markup."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from vigil.report.data import (
    Database,
    FailedUser,
    FaultCount,
    GapCount,
    HistoryBin,
    Lane,
    Month,
    Point,
    Reading,
    Rejected,
    Report,
    Rows,
    Runs,
    SlowUser,
    Standing,
    Users,
    VerdictCount,
)
from vigil.report.questions import HISTORY_EDGES
from vigil.report.words import caveats

MADE = datetime(2025, 8, 3, 14, 30, tzinfo=UTC)
HOSTILE = "\"'><script>alert(1)</script><img src=https://x.example/ onerror=alert(2)>{{ 7 * 7 }}\x1b[2J\u202egnp"
_VERDICTS = ("complete", "truncated", "gap", "empty", "unverified", "not_judged", "not_read")


def a_report(hostile: str = HOSTILE, months: int = 31, points: int = 200, lanes: int = 4, **changes: Any) -> Report:
    """A report of a run under way; `hostile` stands wherever a database could put a text of somebody's."""
    first = MADE - timedelta(minutes=15 * (points + 40))
    made = Report(
        made_at=MADE,
        vigil="0.1.0",
        database=Database(hostile, "15.18", "2.28.3", hypertable=True),
        window=(datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 7, 27, tzinfo=UTC)),
        users=Users(total=100_000, completed=70_000, claimed=16, pending=29_980, failed=4, declared=2),
        rows=Rows(123_456_789, Decimal("98765432109876.123456789"), 120_000_000, "fills_daily", 3, outside_axis=1),
        months=[a_month(n) for n in range(months)],
        verdicts=[
            VerdictCount(word, users, 17 * users, Decimal(users) / 7 if users else None)
            for word, users in zip(_VERDICTS, (40_000, 9_000, 1_200, 15_000, 4_700, 100, 30_000), strict=True)
        ],
        history=[
            HistoryBin(edge, below, 15_000 // (place + 1))
            for place, (edge, below) in enumerate(zip(HISTORY_EDGES, (*HISTORY_EDGES[1:], None), strict=True))
        ],
        runs=Runs(
            first,
            MADE,
            900.0,
            [a_point(first, n if n < points // 2 else n + 40) for n in range(points)],
            dict.fromkeys(("requests", "pauses", "inserted", "received", "users_done", "users_failed"), 1_234_567)
            | {"allowed_weight": 9_000_000, "spent_weight": 8_500_000},
            [Lane(f"{hostile}{n}", 2, 86_400.0, 2_000_000, 1_900_000) for n in range(lanes)],
            lanes_left_out=3,
        ),
        faults=[FaultCount("throttled", 12, MADE), FaultCount(hostile, 3, MADE)],
        gaps=[GapCount("retention", 5, 4), GapCount(hostile, 1, 1)],
        rejected=Rejected(7, [{"reason": hostile, "rows": 7}], 2),
        slowest=[
            SlowUser(f"0x{n:040x}", 9_000 + n, MADE - timedelta(hours=30), MADE, 108_000.0 - n, "complete")
            for n in range(10)
        ],
        failed=[FailedUser(f"0x{n:040x}", 3, hostile, MADE) for n in range(4)],
        caveats=[],
    )
    made = replace(made, **changes)
    return replace(made, caveats=caveats(made))


def a_month(n: int) -> Month:
    """The nth month from 2023 on; most are read for some users, the last two for none."""
    name = f"{2023 + n // 12}-{n % 12 + 1:02d}"
    if n % 31 > 28:
        return Month(name, 0, Decimal(0), Reading.NONE, dict.fromkeys(Standing, 0) | {Standing.NOT_READ: 100_000})
    lost, unread = 2_000 + 100 * n, min(100_000, 30_000 * (n > 3) + 2_000 * n)
    rest = max(0, 100_000 - lost - unread)
    users = {
        Standing.PROVEN: rest // 2,
        Standing.NOTHING_MISSING: rest - rest // 2,
        Standing.OUT_OF_REACH: 100_000 - unread - rest,
        Standing.HOLES: 0,
        Standing.NOT_READ: unread,
    }
    fills = 1_000_000 * (1 + n % 7)
    return Month(name, fills, Decimal(fills) * Decimal("1234.5"), Reading.SOME if unread else Reading.ALL, users)


def a_point(first: datetime, n: int) -> Point:
    spent = 17_000.0 if n % 11 else 3_000.0
    return Point(
        first + timedelta(minutes=15 * n), 18_000.0, spent, spent / 110, float(n % 50 == 0), spent * 9, spent * 15,
        n % 7, 0.0, float(n % 13 == 0),
    )  # fmt: skip
