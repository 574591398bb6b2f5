"""`--max-weight` and `--max-duration`: a run stops there, clean, and the next one goes on."""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.kit.backfill import WINDOW, ask, compared, everybody, settings_for, small, tell
from tests.kit.command import environment, vigil
from tests.kit.loop import run
from vigil.allowance import Limit
from vigil.errors import EXIT_DONE, UsageError
from vigil.pipeline import Run
from vigil.simulator import Simulator, SimulatorConfig
from vigil.tally import Tally

FREE = "SELECT count(*) FROM backfill_progress WHERE state <> 'pending' AND state <> 'completed' OR attempts > 0"
"""Users that are neither read nor free for the next run, or that count as tried in vain."""


def crowd(seed: int, **changes: object) -> SimulatorConfig:
    return small(40, seed, lengths={0: 2_500, 1: 2_100, 2: 4_200}, **changes)


async def limited(exchange: Simulator, url: str, *, volume_check: bool = False, **limits: float) -> Tally:
    job = Run(
        settings_for(exchange),
        url,
        WINDOW,
        users=everybody(exchange),
        volume_check=volume_check,
        **limits,  # type: ignore[arg-type]
    )
    return await job.execute()


async def check_stopped(exchange: Simulator, url: str, tally: Tally, limit: Limit) -> None:
    """Clean: what was fetched is committed, users are free, nobody has failed; and the next run goes on to the end."""
    assert (tally.limit, tally.exit_code) == (limit, EXIT_DONE)
    assert await ask(url, FREE) == 0
    assert 0 < tally.received == tally.fetched == await ask(url, "SELECT count(*) FROM fills")
    assert 0 < tally.users_done == await ask(url, "SELECT count(*) FROM backfill_progress WHERE completed") < 40
    again = await limited(exchange, url)
    assert (again.limit, again.users_done) == (None, 40 - tally.users_done)
    found = await compared(exchange, url)
    assert found.equal, found.examples


def test_the_weight_is_never_exceeded_and_at_most_a_full_page_is_left_over(migrated_url: str) -> None:
    weight = 800

    async def scenario() -> None:
        async with Simulator(crowd(51)) as exchange:
            tally = await limited(exchange, migrated_url, max_weight=weight)
            assert weight - 120 < exchange.stats.weight_spent == tally.weight <= weight
            await check_stopped(exchange, migrated_url, tally, Limit.WEIGHT)

    run(scenario())


def test_a_user_read_to_the_end_at_the_limit_is_asked_for_its_volume_all_the_same(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(crowd(52)) as exchange:
            tally = await limited(exchange, migrated_url, max_weight=900, volume_check=True)
            assert tally.limit is Limit.WEIGHT
            assert tally.weight <= 900 + 8 * 20  # the users being read then
            unasked = "SELECT count(*) FROM backfill_progress WHERE completed AND lifetime_volume IS NULL"
            assert tally.users_done > 0
            assert await ask(migrated_url, unasked) == 0

    run(scenario())


def test_when_the_time_is_up_nobody_waits_for_the_budget_any_more(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(crowd(53, period_seconds=600.0)) as exchange:  # the next page would be minutes away
            tally = await limited(exchange, migrated_url, max_seconds=1.5)
            assert tally.weight <= 1_320
            assert tally.limit is Limit.DURATION
            assert await ask(migrated_url, FREE) == 0
            assert tally.received == await ask(migrated_url, "SELECT count(*) FROM fills") > 0

    run(scenario())


def test_when_the_time_is_up_nobody_waits_for_the_users_of_others_any_more(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(crowd(54)) as exchange:
            other = await asyncpg.connect(migrated_url)
            try:
                await other.execute("SELECT pg_advisory_lock(7)")
                await other.execute(
                    "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at)"
                    " VALUES (7, 'elsewhere', 1, now() + interval '1 hour')"
                )
                await other.execute(
                    "INSERT INTO backfill_progress (user_address, claimed_by) SELECT unnest($1::text[]), 7",
                    everybody(exchange),
                )
                tally = await limited(exchange, migrated_url, max_seconds=0.2)
            finally:
                await other.close()
            assert (tally.limit, tally.requests, tally.exit_code) == (Limit.DURATION, 0, EXIT_DONE)
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE claimed_by = 7") == 40

    run(scenario())


def test_a_limit_that_is_not_reached_is_no_reason(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(5, 55)) as exchange:
            tally = await limited(exchange, migrated_url, max_weight=10_000, max_seconds=3600.0)
            assert (tally.limit, tally.users_done) == (None, 5)

    run(scenario())


def test_less_weight_than_a_page_may_cost_is_refused() -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 56)) as exchange:
            with pytest.raises(UsageError, match="--max-weight 119 is less than a page of hyperliquid may cost: 120"):
                Run(settings_for(exchange), "postgresql://unused", WINDOW, max_weight=119)

    run(scenario())


def test_the_command_says_why_it_stopped_and_how_to_go_on(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(crowd(57)) as exchange:
            insert = "INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[])"
            await tell(migrated_url, insert, everybody(exchange))
            env = environment(migrated_url, exchange)
            wrong = await vigil("run", "--max-duration", "soon", env=env)
            assert (wrong.code, exchange.stats.requests) == (2, 0)
            assert "--max-duration 'soon' is no span of time" in wrong.err
            outcome = await vigil("run", "--max-weight", "600", "--max-duration", "1h30m", "--json", env=env)
            assert outcome.code == 0, outcome.err
            assert "stopped at --max-weight" in outcome.err
            assert "run the same command to go on" in outcome.err
            summary = json.loads(outcome.out.splitlines()[-1])
            assert (summary["event"], summary["stopped_at"], summary["exit_code"]) == ("summary", "max_weight", 0)
            assert summary["weight"] == exchange.stats.weight_spent <= 600

    run(scenario())
