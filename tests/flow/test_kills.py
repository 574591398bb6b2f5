"""Three workers over one run, killed with SIGKILL at random moments: nobody sees it in the tables.

The same with a hundred kills: `python -m benchmarks.kills`.
"""

from __future__ import annotations

import asyncpg
import pytest

from tests.kit.killed_run import killed_run
from tests.kit.ledger import RULES, broken_rules, open_ledger
from tests.kit.loop import run

KILLS = 10


def test_three_workers_killed_at_random_moments_lose_nothing_repeat_nothing_and_share_nobody(migrated_url: str) -> None:
    async def scenario() -> None:
        # Two of them share an address and its budget, the third has one of its own.
        lanes = ["here", "here", "there"]
        after = await killed_run(migrated_url, lanes, users=150, kills=KILLS, seconds=5, seed=31)
        assert [end.code for end in after.ends] == [0, 0, 0], [end.err for end in after.ends]
        assert after.found.equal, after.found.examples
        assert after.broken_rules == {}
        assert after.blemishes == {}
        assert after.never_asked_for == set()
        assert after.strangers == set()
        # The deaths were worth the trouble: all took place, some too early to be noticed, some in the midst of work.
        assert len(after.deaths) == KILLS
        assert 0 < after.died_unborn < KILLS
        assert after.died_at_work > 0

    run(scenario())


USER = "0x" + "ab" * 20
FILL = (
    "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
    f" VALUES ('{USER}', '2024-01-01', 'BTC', 'B', 1, 1, 1, 1)"
)
SOME_FILL = f"{FILL}; UPDATE backfill_progress SET fills_count = fills_count + 1"


def be(worker: int) -> str:
    return f"SET application_name = 'vigil-backfill {worker}'"


def own(worker: int | None) -> str:
    return f"UPDATE backfill_progress SET claimed_by = {worker or 'NULL'}"


SINS = {
    "a user goes from worker to worker only by being free in between": [be(1), own(1), be(2), own(2)],
    "what a user's row says of its owner is what the entry before left there": [
        "ALTER TABLE backfill_progress DISABLE TRIGGER ledger",
        own(1),
        "ALTER TABLE backfill_progress ENABLE TRIGGER ledger",
        be(1),
        own(None),
    ],
    "only a living worker claims, and for itself": [be(1), own(2)],
    "nobody takes a user from a living worker": [be(1), own(1), be(2), own(None)],
    "rows are written by the worker that holds their user, in the transaction that moves it on": [
        be(1),
        own(1),
        be(2),
        SOME_FILL,
    ],
    "a transaction counts for each user the rows it inserts": [be(1), own(1), FILL],
    "a row inserted stays, and no row is there that was not inserted": [be(1), own(1), SOME_FILL, "DELETE FROM fills"],
}


def test_the_ledger_has_a_sin_for_each_of_its_rules() -> None:
    assert set(SINS) == set(RULES)


@pytest.mark.parametrize("rule", SINS)
def test_the_ledger_notices_that(migrated_url: str, rule: str) -> None:
    async def scenario() -> None:
        await open_ledger(migrated_url)
        connection = await asyncpg.connect(migrated_url)
        try:
            await connection.execute(
                "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at)"
                " VALUES (1, 'here', 1, now() + interval '1 hour'), (2, 'here', 2, now() + interval '1 hour')"
            )
            await connection.execute(f"INSERT INTO backfill_progress (user_address) VALUES ('{USER}')")
            for statements in (be(1), own(1), SOME_FILL, own(None), be(2), own(2), own(None), be(1)):
                await connection.execute(statements)
            assert await broken_rules(migrated_url) == {}
            await connection.execute("TRUNCATE fills, ledger_fills, ledger_progress")
            for statements in SINS[rule]:
                await connection.execute(statements)
        finally:
            await connection.close()
        assert rule in await broken_rules(migrated_url)

    run(scenario())
