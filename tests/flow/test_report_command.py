"""`vigil-backfill report` on a real database: numbers that equal the tables, and what it writes."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.kit.backfill import tell
from tests.kit.command import environment, vigil
from tests.kit.loop import run
from tests.kit.reports import HOSTILE
from vigil.db import session
from vigil.report import coverage
from vigil.report.data import Reading, Report, Standing
from vigil.report.questions import read_report

WINDOW = (datetime(2024, 1, 10, tzinfo=UTC), datetime(2024, 9, 20, tzinfo=UTC))
MONTHS = [f"2024-{month:02d}" for month in range(1, 10)]
VERDICTS = ("complete", "truncated", "gap", "empty", "unverified", None)
FILLS = (
    "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
    " SELECT '0x' || repeat('ab', 20), $1::timestamptz + n * interval '1 hour', 'BTC', 'B', 0.1, 3, n, n"
    " FROM generate_series(1, $2) AS n"
)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


async def read(url: str) -> Report:
    async with session(url) as connection:
        return await read_report(connection)


def random_users(count: int, seed: int) -> list[dict[str, Any]]:
    """Users read up to here or there, on month edges as well, judged or not."""
    rnd = random.Random(seed)
    edges = [ms(datetime(2024, month, 1, tzinfo=UTC)) for month in range(2, 10)]
    begin, end = ms(WINDOW[0]), ms(WINDOW[1])

    def moment() -> int:
        return rnd.choice([begin, end, rnd.choice(edges), rnd.choice(edges) + 1, rnd.randrange(begin, end)])

    users = []
    for n in range(count):
        completed, begun = rnd.random() < 0.5, rnd.random() < 0.9
        start = begin if n == 0 or rnd.random() < 0.7 else moment()
        users.append(
            {
                "user_address": f"0x{n:040x}",
                "completed": completed,
                "window_start_ms": start if completed or begun else None,
                "window_end_ms": end if completed or begun else None,
                "cursor_ms": (end if completed else moment()) if completed or begun else None,
                "until_ms": end if not completed and begun and rnd.random() < 0.2 else None,
                "oldest_fill_time": moment() if rnd.random() < 0.8 else None,
                "fills_count": int(10 ** rnd.uniform(0, 5)) * (rnd.random() < 0.8),
                "verdict": (verdict := rnd.choice(VERDICTS) if completed else None),
                "judged_at": None if verdict is None else WINDOW[1],
            }
        )
    return users


async def store_users(url: str, users: list[dict[str, Any]]) -> None:
    names = [*users[0]]
    marks = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    connection = await asyncpg.connect(url)
    try:
        statement = f"INSERT INTO backfill_progress ({', '.join(names)}) VALUES ({marks})"
        await connection.executemany(statement, [tuple(user.values()) for user in users])
    finally:
        await connection.close()


def standing(user: dict[str, Any], begin: int, end: int) -> Standing:
    """One user's, told from its row alone."""
    read_to = user["cursor_ms"] if user["until_ms"] is None else user["window_end_ms"]
    if read_to is None or user["window_start_ms"] > begin or read_to < end:
        return Standing.NOT_READ
    if user["verdict"] == "complete":
        return Standing.PROVEN
    if user["verdict"] == "gap":
        return Standing.HOLES
    oldest = user["oldest_fill_time"]
    if user["verdict"] == "truncated" and (oldest is None or begin < oldest):
        return Standing.OUT_OF_REACH
    return Standing.NOTHING_MISSING


def test_every_users_every_month_is_counted_once_where_its_row_says(migrated_url: str) -> None:
    users = random_users(400, seed=5)

    async def scenario() -> None:
        await store_users(migrated_url, users)
        report = await read(migrated_url)
        assert report.window == WINDOW
        assert [month.month for month in report.months] == MONTHS
        edges = [ms(WINDOW[0]), *(ms(datetime(2024, month, 1, tzinfo=UTC)) for month in range(2, 10)), ms(WINDOW[1])]
        for month, begin, end in zip(report.months, edges, edges[1:], strict=False):
            expected = Counter(standing(user, begin, end) for user in users)
            assert month.users == {one: expected[one] for one in Standing}, month.month
        completed = [user for user in users if user["completed"]]
        assert (report.users.total, report.users.completed) == (400, len(completed))
        by = Counter(user["verdict"] or "not_judged" for user in completed)
        assert {one.verdict: one.users for one in report.verdicts} == {**by, "not_read": 400 - len(completed)}
        for one in report.history:
            inside = [
                u for u in completed if one.at_least <= u["fills_count"] and (one.below or 1e9) > u["fills_count"]
            ]
            assert one.users == len(inside), one

    run(scenario())


def test_fills_and_volume_are_exact_and_a_month_without_any_says_whether_it_was_read(migrated_url: str) -> None:
    async def scenario() -> None:
        (user,) = random_users(1, seed=1)
        user |= {
            "completed": False,
            "until_ms": None,
            "verdict": None,
            "judged_at": None,
            "window_start_ms": ms(WINDOW[0]),
        }
        user |= {"window_end_ms": ms(WINDOW[1]), "cursor_ms": ms(datetime(2024, 5, 1, tzinfo=UTC))}
        await store_users(migrated_url, [user])
        await tell(migrated_url, FILLS, datetime(2024, 2, 29, 20, tzinfo=UTC), 7)  # 3 in February, 4 in March
        await tell(migrated_url, FILLS, datetime(2024, 11, 2, tzinfo=UTC), 2)  # from elsewhere
        await tell(migrated_url, FILLS, datetime(1999, 1, 1, tzinfo=UTC), 5)
        report = await read(migrated_url)
        told = {month.month: (month.fills, month.volume, month.read) for month in report.months}
        assert told["2024-02"] == (3, Decimal("0.9"), Reading.ALL)
        assert told["2024-03"] == (4, Decimal("1.2"), Reading.ALL)
        assert told["2024-04"] == (0, Decimal(0), Reading.ALL)
        assert told["2024-05"] == (0, Decimal(0), Reading.NONE)
        assert told["2024-10"] == (0, Decimal(0), Reading.OUTSIDE)
        assert told["2024-11"] == (2, Decimal("0.6"), Reading.OUTSIDE)
        assert list(told) == [*MONTHS, "2024-10", "2024-11"]
        assert (report.rows.total, report.rows.outside_axis) == (14, 5)
        assert report.rows.volume == Decimal("4.2")

    run(scenario())


@pytest.mark.timescaledb
def test_days_for_which_fills_daily_is_behind_are_counted_from_the_rows(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, FILLS, datetime(2024, 2, 1, tzinfo=UTC), 400)
        await tell(migrated_url, "CALL refresh_continuous_aggregate('fills_daily', '2024-01-01Z', '2025-01-01Z')")
        await tell(migrated_url, FILLS.replace("n, n", "n + 1000, n"), datetime(2024, 2, 9, tzinfo=UTC), 30)
        seen = await read(migrated_url)
        assert {month.month: month.fills for month in seen.months} == {"2024-02": 430}
        assert (seen.rows.total, seen.rows.volume) == (430, Decimal("129.0"))
        assert (seen.rows.source, seen.rows.days_behind) == ("fills_daily", 2)
        assert any("2 days" in one for one in seen.caveats)

    run(scenario())


def test_what_workers_told_is_shared_out_over_time_and_adds_up(migrated_url: str) -> None:
    begun = datetime(2025, 3, 1, 0, 0, 30, tzinfo=UTC)

    async def scenario() -> None:
        sample = (
            "INSERT INTO backfill_samples (at, worker_id, host, lane, seconds, allowed_weight, spent_weight, requests,"
            " pauses, inserted, received, users_done, users_failed, faults)"
            " SELECT $1::timestamptz + n * interval '1 minute', $2, 'h', $3, 60, 1200, 600, 6, 1, 100, 200, 2, 0,"
            """ '{"late": 2, "throttled": 5}' FROM generate_series(1, $4) AS n WHERE n NOT BETWEEN 100 AND 130"""
        )
        await tell(migrated_url, sample, begun, 1, "a", 300)
        await tell(migrated_url, sample, begun, 2, HOSTILE, 200)
        runs = (await read(migrated_url)).runs
        assert runs is not None
        assert runs.totals["received"] == 200 * (300 - 31 + 200 - 31)
        assert (runs.first_at, runs.last_at) == (begun, begun + timedelta(hours=5))
        assert [(one.lane, one.workers, one.spent_weight) for one in runs.lanes] == [
            ("a", 1, 600 * 269),
            (HOSTILE, 1, 600 * 169),
        ]
        assert runs.span_seconds == 120
        for name, total in runs.totals.items():
            assert sum(getattr(point, name) for point in runs.points) == pytest.approx(total), name
        assert sum(point.other_faults for point in runs.points) == pytest.approx(2 * (269 + 169))
        assert len(runs.points) == 150 + 1 - 15  # nobody told anything for half an hour: no point, and no 0
        middle = runs.points[10]
        assert (middle.received, middle.allowed_weight) == pytest.approx((800, 4800))

    run(scenario())


def test_a_report_is_written_printed_and_refused_as_documented(migrated_url: str, tmp_path: Path) -> None:
    env = environment(migrated_url)
    failure = "UPDATE backfill_progress SET failed_at = now(), last_error = $1 WHERE NOT completed"
    run(store_users(migrated_url, random_users(20, seed=3)))
    run(tell(migrated_url, failure, HOSTILE))
    target = tmp_path / "report.html"
    target.write_text("an older one")

    written = run(vigil("report", "-o", str(target), env=env))
    assert (written.code, written.out) == (0, "")
    assert "of 20 users read to the end" in written.err
    text = target.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

    printed = run(vigil("report", "--json", "--quiet", env=env))
    assert (printed.code, printed.err) == (0, "")
    assert json.loads(printed.out)["users"]["total"] == 20

    directory = run(vigil("report", "-o", str(tmp_path), env=env))
    assert directory.code == 2
    assert "is a directory" in directory.err


def test_a_database_without_a_backfill_leaves_no_file(database_url: str, tmp_path: Path) -> None:
    outcome = run(vigil("report", "-o", str(tmp_path / "report.html"), env=environment(database_url)))
    assert outcome.code == 2
    assert "no backfill" in outcome.err
    assert not [*tmp_path.iterdir()]


def test_an_empty_backfill_is_reported_as_one(migrated_url: str) -> None:
    report = run(read(migrated_url))
    assert report.months == []
    assert (report.runs, report.window) == (None, None)
    assert coverage.axis(report.made_at, None, []).count == 0
    assert "No users are known" in report.caveats[0]
