"""Runs that are killed, interrupted or cut off, as processes: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from tests.kit.backfill import ask, compared, everybody, small, tell
from tests.kit.command import environment, finish, start, stopped, vigil
from tests.kit.loop import run
from vigil.simulator import Simulator


async def _enroll(url: str, exchange: Simulator) -> None:
    outcome = await vigil(
        "users", "add", "--users-file", "-", env=environment(url), stdin="\n".join(everybody(exchange)).encode()
    )
    assert outcome.code == 0, outcome.err


async def _first_commit(url: str) -> None:
    while not await ask(url, "SELECT count(*) FROM fills"):  # noqa: ASYNC110  another process commits
        await asyncio.sleep(0.05)


def test_killed_at_any_moment_loses_nothing_and_duplicates_nothing(migrated_url: str) -> None:
    rng = random.Random(5)

    async def scenario() -> None:
        config = small(120, 21, lengths=dict.fromkeys(range(0, 120, 10), 2500), period_seconds=0.5)
        async with Simulator(config) as exchange:
            await _enroll(migrated_url, exchange)
            env = environment(migrated_url, exchange)
            kills = 0
            while True:
                process = await start("run", env=env)
                if kills < 6:
                    served = exchange.stats.requests + rng.randint(1, 12)
                    while exchange.stats.requests < served:  # noqa: ASYNC110  another process asks
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(rng.uniform(0, 0.2))
                    await stopped(process, signal.SIGKILL)
                    kills += 1
                    continue
                outcome = await finish(process)
                assert outcome.code == 0, outcome.err
                break
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            least = 20 * 120 + found.rows / 20
            assert exchange.stats.weight_spent < 1.5 * least + kills * 1200  # what was committed is not read again

    run(scenario())


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_commits_what_was_fetched_and_frees_the_users(
    migrated_url: str, signum: signal.Signals, code: int
) -> None:
    async def scenario() -> None:
        async with Simulator(small(80, 22, period_seconds=1.0)) as exchange:
            await _enroll(migrated_url, exchange)
            env = environment(migrated_url, exchange)
            process = await start("run", env=env)
            await _first_commit(migrated_url)
            outcome = await stopped(process, signum)
            assert outcome.code == code, outcome.err
            assert "run the same command to go on" in outcome.err
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE state = 'claimed'") == 0
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE attempts > 0") == 0
            assert 0 < await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE completed") < 80
            assert (await vigil("run", env=env)).code == 0
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_an_exchange_that_can_not_be_reached_ends_the_run_with_5_and_one_sentence(migrated_url: str) -> None:
    async def scenario() -> None:
        env = environment(migrated_url, VIGIL_API_URL="http://127.0.0.1:9/info", VIGIL_WEIGHT_PERIOD_SECONDS=1)
        outcome = await vigil("run", "--user", "0x" + "ab" * 20, env=env)
        assert outcome.code == 5
        assert "No connection to http://127.0.0.1:9/info" in outcome.err
        assert "Traceback" not in outcome.err
        assert await ask(migrated_url, "SELECT state::text FROM backfill_progress") == "pending"

    run(scenario())


def test_an_exchange_that_answers_nobody_stops_the_run_before_every_user_is_burnt(migrated_url: str) -> None:
    async def scenario() -> None:
        from vigil.simulator import FaultPlan

        config = small(60, 23, faults=FaultPlan(chances={"502": 1.0}), weight_per_minute=0)
        async with Simulator(config) as exchange:
            await _enroll(migrated_url, exchange)
            env = environment(migrated_url, exchange, VIGIL_REQUEST_TRIES=2)
            outcome = await vigil("run", env=env)
            assert outcome.code == 5, outcome.err
            assert "no usable answer for" in outcome.err
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE state = 'pending'") > 0

    run(scenario())


def test_a_worker_that_slept_through_its_lease_commits_nothing(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 24, lengths={0: 9_000}, period_seconds=3.0)) as exchange:
            user = everybody(exchange)[0]
            env = environment(migrated_url, exchange, VIGIL_LEASE_SECONDS=1)
            sleeper = await start("run", "--user", user, env=env)
            await _first_commit(migrated_url)
            sleeper.send_signal(signal.SIGSTOP)
            second = await vigil("run", "--user", user, env=env)
            assert second.code == 0, second.err
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            await tell(migrated_url, "TRUNCATE fills")  # whatever the sleeper still commits would be seen
            sleeper.send_signal(signal.SIGCONT)
            outcome = await finish(sleeper)
            assert outcome.code == 5, outcome.err
            assert "slept through its lease" in outcome.err
            assert await ask(migrated_url, "SELECT count(*) FROM fills") == 0

    run(scenario())
