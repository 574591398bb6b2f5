"""Judging in the database: who is judged, what is stored, and what happens when one user can't be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.kit.backfill import WINDOW, ask, tell
from tests.kit.loop import run
from vigil.claims import EVERYBODY
from vigil.db import Link
from vigil.judge import Judge
from vigil.settings import Settings

START = "2024-03-01T00:00:00Z"


def address(number: int) -> str:
    return f"0x{number:040x}"


@asynccontextmanager
async def a_judge(url: str, **changes: Any) -> AsyncIterator[Judge]:
    given: dict[str, Any] = {"database_timeout_seconds": 20.0, "database_patience_seconds": 5.0, **changes}
    link = Link(url, Settings(**{"_env_file": None, **given}))
    try:
        yield Judge(link, EVERYBODY.range)
    finally:
        await link.close()


async def finished(url: str, *users: str) -> None:
    """Users read to the end of the window, each with two fills of BTC from 0 on."""
    await tell(
        url,
        "INSERT INTO backfill_progress"
        " (user_address, completed, completed_at, window_start_ms, window_end_ms, cursor_ms)"
        " SELECT u, true, now(), $2, $3, $3 FROM unnest($1::text[]) AS u",
        list(users),
        WINDOW.start_ms,
        WINDOW.end_ms,
    )
    await tell(
        url,
        "INSERT INTO fills (user_address, time, coin, side, px, sz, start_position, oid, tid, seq)"
        " SELECT u, $2::text::timestamptz + n * interval '1 hour', 'BTC', 'B', 10, 1, n, n, n + 1, 0"
        " FROM unnest($1::text[]) AS u, generate_series(0, 1) AS n",
        list(users),
        START,
    )


async def verdict_of(url: str, user: str) -> tuple[str, list[str]]:
    query = "SELECT json_build_array(verdict, verdict_causes) FROM backfill_progress WHERE user_address = $1"
    verdict, causes = json.loads(await ask(url, query, user))
    return verdict, causes


def test_a_verdict_and_its_evidence_are_stored_for_user_and_coin(migrated_url: str) -> None:
    async def scenario() -> None:
        await finished(migrated_url, address(1))
        async with a_judge(migrated_url) as judge:
            await judge.judge_all()
        assert await verdict_of(migrated_url, address(1)) == ("complete", ["retention_unknown"])
        row = "SELECT evidence::text FROM backfill_verdicts WHERE coin = 'BTC' AND verdict = 'complete'"
        evidence = json.loads(await ask(migrated_url, row))
        assert (evidence["rows"], evidence["links"], evidence["broken"]) == (2, 1, 0)
        assert await ask(migrated_url, "SELECT notional FROM backfill_progress") == 20

    run(scenario())


def test_judged_anew_a_coin_that_is_gone_leaves_no_verdict(migrated_url: str) -> None:
    async def scenario() -> None:
        await finished(migrated_url, address(1))
        async with a_judge(migrated_url) as judge:
            await judge.judge_all()
            await tell(migrated_url, "UPDATE fills SET coin = 'ETH'")
            await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL")
            await judge.judge_all()
        assert await ask(migrated_url, "SELECT array_agg(coin) FROM backfill_verdicts") == ["ETH"]

    run(scenario())


def test_a_chain_that_begins_late_asks_for_the_slices_of_its_user_alone(migrated_url: str) -> None:
    async def scenario() -> None:
        await finished(migrated_url, address(1), address(2))
        await tell(
            migrated_url, "UPDATE fills SET start_position = start_position + 5 WHERE user_address = $1", address(1)
        )
        async with a_judge(migrated_url) as judge:
            await judge.judge_all()
        row = "SELECT state || ' ' || slices_wanted FROM backfill_progress WHERE user_address = $1"
        assert await ask(migrated_url, row, address(1)) == "pending true"
        assert await ask(migrated_url, row, address(2)) == "completed false"

    run(scenario())


@pytest.mark.parametrize("users", [1, 3])
def test_who_can_not_be_judged_in_time_is_told_so_and_holds_up_nobody(migrated_url: str, users: int) -> None:
    """Locked away is as good as too much to look at."""

    async def scenario() -> None:
        await finished(migrated_url, *map(address, range(users)))
        connection = await asyncpg.connect(migrated_url)
        try:
            async with (
                connection.transaction(),
                asyncio.timeout(60),
                a_judge(migrated_url, database_timeout_seconds=0.5) as judge,
            ):
                await connection.execute("LOCK TABLE rejected_fills IN ACCESS EXCLUSIVE MODE")
                await judge.judge_all()
        finally:
            await connection.close()
        for number in range(users):
            assert await verdict_of(migrated_url, address(number)) == ("unverified", ["not_judged"])
        why = await ask(migrated_url, "SELECT verdict_why FROM backfill_progress LIMIT 1")
        assert "VIGIL_DATABASE_TIMEOUT_SECONDS" in why
        await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL")
        async with a_judge(migrated_url) as judge:
            await judge.judge_all()
        assert (await verdict_of(migrated_url, address(0)))[0] == "complete"

    run(scenario())


def test_a_server_that_is_away_is_waited_for_and_nobody_given_up(migrated_url: str) -> None:
    async def scenario() -> None:
        await finished(migrated_url, address(1))
        async with a_judge(migrated_url) as judge:
            await judge.judge_all()
            await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL")
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            await tell(migrated_url, others + " AND pid <> pg_backend_pid() AND application_name = 'vigil-backfill'")
            await judge.judge_all()
        assert (await verdict_of(migrated_url, address(1)))[0] == "complete"

    run(scenario())
