"""The counters that `status` answers from: whatever is done to the tables, they say what a full count would."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tests.kit.database import Server
from tests.kit.loop import run
from vigil.forecast import rows_weight
from vigil.status import Counted, read_status
from vigil.urgency import REACH_ROWS, Estimate
from vigil.verdict import Verdict

TABLES = ("backfill_progress", "backfill_gaps", "rejected_fills")

USERS = [f"0x{number:040x}" for number in range(60)]

CHANGES = (
    "claimed_by = 1, completed = false, failed_at = NULL",
    "claimed_by = NULL, completed = true, failed_at = NULL, sources = '{hyperliquid}', window_end_ms = 9",
    "claimed_by = NULL, completed = false, failed_at = now(), attempts = attempts + 1",
    "claimed_by = NULL, completed = false, failed_at = NULL",
    "cursor_ms = 5",
    "cursor_ms = NULL, until_ms = 6 - coalesce(until_ms, 0)",
    "until_ms = NULL",
    "fills_count = fills_count + 1234, oldest_fill_time = least(oldest_fill_time, 1000 + fills_count)",
    "fills_count = 0, oldest_fill_time = NULL, slices_wanted = NOT slices_wanted",
    "judged_at = now(), verdict = 'truncated', notional = 12345.678 + fills_count, lifetime_volume = 99999.5",
    "judged_at = now(), verdict = 'complete', notional = 7, lifetime_volume = NULL",
    "judged_at = NULL",
    "urgency = 2.5, rows_after_window = 1 + fills_count % 9000, fills_per_hour = 33.3",
    "urgency = 2.5, rows_after_window = 12000, fills_per_hour = NULL",
    "urgency = 0",
    "updated_at = now()",
)


@pytest.fixture(scope="module")
def url(database_server: Server) -> Iterator[str]:
    with database_server.database(migrated=True) as url:
        yield url


async def change(connection: asyncpg.Connection[Any], draw: random.Random) -> None:
    """Any one thing that is done to the tables, to some users."""
    some = draw.sample(USERS, draw.randint(1, 12))
    match draw.randint(0, 11):
        case 0:
            insert = "INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
            await connection.execute(insert, some)
        case 1:
            records = [(user, draw.randint(0, 5000)) for user in some]
            columns = ("user_address", "fills_count")
            await connection.copy_records_to_table("backfill_progress", records=records, columns=columns)
        case 2:
            await connection.execute("DELETE FROM backfill_progress WHERE user_address = ANY ($1)", some[:2])
        case 3:
            insert = "INSERT INTO backfill_gaps SELECT u, 1, $2, 'retention' FROM unnest($1::text[]) AS u"
            await connection.execute(f"{insert} ON CONFLICT DO NOTHING", some, draw.randint(1, 3))
        case 4:
            delete = "DELETE FROM backfill_gaps WHERE user_address = ANY ($1) AND to_ms = $2"
            await connection.execute(delete, some, draw.randint(1, 3))
        case 5:
            insert = "INSERT INTO rejected_fills SELECT u, '\\x00', '{}', 'x' FROM unnest($1::text[]) AS u"
            await connection.execute(f"{insert} ON CONFLICT DO NOTHING", some)
        case 6:
            await connection.execute("DELETE FROM rejected_fills WHERE user_address = ANY ($1)", some)
        case 7:
            await connection.execute("SELECT backfill_fold_counts()")
        case _:
            update = f"UPDATE backfill_progress SET {draw.choice(CHANGES)} WHERE user_address = ANY ($1)"
            await connection.execute(update, some)


async def someone(url: str, seed: int, turns: int) -> int:
    """Changes in transactions of their own, some of them given up; how many were ended as the losers of a deadlock."""
    draw, lost = random.Random(seed), 0
    connection = await asyncpg.connect(url)
    await connection.execute("SET deadlock_timeout = '5ms'")
    try:
        for _ in range(turns):
            transaction = connection.transaction(isolation=draw.choice(("read_committed", "repeatable_read")))
            await transaction.start()
            try:
                for _ in range(draw.randint(1, 4)):
                    with suppress(asyncpg.UniqueViolationError):  # a COPY of who is known already
                        async with connection.transaction():
                            await change(connection, draw)
            except asyncpg.TransactionRollbackError:
                lost += 1
                await transaction.rollback()
            else:
                await (transaction.commit() if draw.random() < 0.7 else transaction.rollback())
    finally:
        await connection.close()
    return lost


async def differences(url: str) -> list[str]:
    """Where the counters are not what the rows say, added up here without any of their SQL."""
    connection = await asyncpg.connect(url)
    try:
        counted = Counted([dict(row) for row in await connection.fetch("SELECT * FROM backfill_counted")])
        users = await connection.fetch("SELECT *, state::text AS is FROM backfill_progress")
        gaps = await connection.fetch("SELECT user_address FROM backfill_gaps")
        rejected = await connection.fetchval("SELECT count(*) FROM rejected_fills")
        status = await read_status(connection, attempts=3)
    finally:
        await connection.close()
    told: dict[str, Any] = {
        "states": {name: counted.total("users", what="users", state=name) for name in Counter(u["is"] for u in users)},
        "fresh": counted.total("users", what="users", state="pending", fresh=True),
        "users": status.users,
        "fills": status.fills,
        "oldest": status.oldest_fill_time,
        "gaps": (status.gaps, status.users_with_gaps),
        "rejected": status.rejected_fills,
        "unjudged": status.unjudged,
        "verdicts": {v["verdict"]: (v["users"], v["fills"], v["notional"]) for v in status.verdicts},
        "captured": {v["verdict"]: v["captured_share"] for v in status.verdicts},
        "losing": (status.users_losing, round(status.lost_per_hour, 2), status.fills_at_stake),
        "left": [(one.users, one.seen.count, round(one.seen.mean, 6)) for one in counted.left(3)],
    }
    counts = {
        "states": dict(Counter(u["is"] for u in users)),
        "fresh": sum(u["is"] == "pending" and u["cursor_ms"] is None and u["until_ms"] is None for u in users),
        "users": len(users),
        "fills": sum(u["fills_count"] for u in users),
        "oldest": min((u["oldest_fill_time"] for u in users if u["oldest_fill_time"] is not None), default=None),
        "gaps": (len(gaps), len({gap["user_address"] for gap in gaps})),
        "rejected": rejected,
        "unjudged": sum(u["is"] == "completed" and not u["judged_at"] and bool(u["window_end_ms"]) for u in users),
        "verdicts": _verdicts(users),
        "captured": _captured(users),
        "losing": _losing(users),
        "left": [_left(users, urgent) for urgent in (True, False)],
    }
    return [f"{name}: {told[name]}, not {counts[name]}" for name in told if told[name] != counts[name]]


def _verdicts(users: list[Any]) -> dict[str, Any]:
    sums: defaultdict[str, list[Any]] = defaultdict(lambda: [0, 0, 0])
    for user in users:
        if user["verdict"] is not None and user["judged_at"] is not None:
            row = sums[user["verdict"]]
            row[:] = row[0] + 1, row[1] + user["fills_count"], row[2] + user["notional"]
    return {str(word): tuple(sums[word]) for word in Verdict if word in sums}


def _captured(users: list[Any]) -> dict[str, Any]:
    shares: dict[str, Any] = {}
    for word in _verdicts(users):
        known = [u for u in users if u["verdict"] == word and u["judged_at"] and u["lifetime_volume"]]
        theirs, volume = (sum(u[name] for u in known) for name in ("notional", "lifetime_volume"))
        shares[word] = theirs / volume if known else None
    return shares


def _losing(users: list[Any]) -> tuple[int, float, int]:
    losing = [
        Estimate(u["rows_after_window"], u["fills_per_hour"] or REACH_ROWS, u["urgency"])
        for u in users
        if u["urgency"] and u["is"] != "completed" and 0 < u["rows_after_window"] < REACH_ROWS
    ]
    return len(losing), round(sum(one.lost_per_hour for one in losing), 2), round(sum(one.at_stake for one in losing))


def _left(users: list[Any], urgent: bool) -> tuple[int, int, float]:
    group = [u for u in users if (u["urgency"] > 0) == urgent]
    read = [
        rows_weight(u["fills_count"]) + 20 * u["slices_wanted"]
        for u in group
        if u["is"] == "completed" and u["window_end_ms"] and u["sources"]
    ]
    left = sum(u["is"] != "completed" and not (u["is"] == "failed" and u["attempts"] >= 3) for u in group)
    return left, len(read), round(sum(read) / len(read), 6) if read else 0.0


@pytest.mark.parametrize("seed", range(2))
def test_the_counters_are_what_a_full_count_says_whatever_many_do_at_the_same_time(url: str, seed: int) -> None:
    async def scenario() -> None:
        lost = await asyncio.gather(*(someone(url, 100 * seed + number, 40) for number in range(5)))
        assert sum(lost) < 5 * 40, "nobody's changes were kept"
        assert await differences(url) == []

    run(scenario())


def test_the_counters_follow_a_truncate_and_the_rollback_of_one(url: str) -> None:
    async def scenario() -> None:
        await someone(url, 7, 20)
        connection = await asyncpg.connect(url)
        before = await connection.fetchval("SELECT sum(users) FROM backfill_counts WHERE what = 'users'")
        with suppress(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute(f"TRUNCATE {', '.join(TABLES)}")
                assert not await connection.fetchval("SELECT sum(users) FROM backfill_counts")
                raise ZeroDivisionError
        assert await connection.fetchval("SELECT sum(users) FROM backfill_counts WHERE what = 'users'") == before > 0
        assert await differences(url) == []
        await connection.execute(f"TRUNCATE {', '.join(TABLES)}")
        await connection.close()
        assert await differences(url) == []

    run(scenario())


def test_what_was_changed_behind_the_triggers_is_counted_anew_beside_writers(url: str) -> None:
    async def scenario() -> None:
        await someone(url, 8, 10)
        connection = await asyncpg.connect(url)
        await connection.execute("ALTER TABLE backfill_progress DISABLE TRIGGER USER")
        await connection.execute("ALTER TABLE backfill_gaps DISABLE TRIGGER USER")
        await connection.execute("DELETE FROM backfill_progress WHERE user_address < $1", USERS[30])
        await connection.execute("INSERT INTO backfill_gaps SELECT unnest($1::text[]), 1, 99, 'x'", USERS[:20])
        await connection.execute("ALTER TABLE backfill_progress ENABLE TRIGGER USER")
        await connection.execute("ALTER TABLE backfill_gaps ENABLE TRIGGER USER")
        assert await differences(url) != []
        for table in ("users", "gaps", "rejected_fills"):
            await asyncio.gather(someone(url, 9, 5), connection.execute("SELECT backfill_recount($1)", table))
        await connection.close()
        assert await differences(url) == []

    run(scenario())


def test_folding_waits_for_nobody_and_nobody_for_it(url: str) -> None:
    """One transaction holds what it folded, another goes on and is counted; both are there in the end."""

    async def scenario() -> None:
        one, other = await asyncpg.connect(url), await asyncpg.connect(url)
        await other.execute("SET statement_timeout = '5s'")
        transaction = one.transaction()
        await transaction.start()
        await one.execute("INSERT INTO backfill_progress VALUES ($1)", "0x" + "a" * 40)
        await one.execute("SELECT backfill_fold_counts()")
        await other.execute("INSERT INTO backfill_progress VALUES ($1)", "0x" + "b" * 40)
        await other.execute("SELECT backfill_fold_counts()")
        await transaction.commit()
        await other.execute("SELECT backfill_fold_counts()")
        rows = await other.fetchval("SELECT count(*) FROM backfill_counts")
        groups = await other.fetchval("SELECT count(*) FROM backfill_counted")
        await one.close()
        await other.close()
        assert rows == groups  # not one a statement
        assert await differences(url) == []

    run(scenario())
