"""Runs as processes that share an address's budget, against an exchange that refuses whatever exceeds it."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Iterable

from tests.kit.backfill import ask, compared, everybody, small
from tests.kit.command import environment, finish, start, stopped, vigil
from tests.kit.loop import run
from vigil.limiter import OVERSHOOT_WEIGHT
from vigil.simulator import Simulator, SimulatorConfig

ALLOWED = 1200
LATENCY_SECONDS = (0.0, 0.02)
SHARES = "SELECT coalesce(array_agg(share_weight), '{}') FROM backfill_workers"


def exchange_of(users: int, *, period: float, allowed: int = ALLOWED) -> SimulatorConfig:
    long = dict.fromkeys(range(0, users, 9), 2500)
    return small(
        users, 31, lengths=long, period_seconds=period, latency_seconds=LATENCY_SECONDS, weight_per_minute=allowed
    )


async def enroll(url: str, exchange: Simulator) -> None:
    known = "\n".join(everybody(exchange)).encode()
    added = await vigil("users", "add", "--users-file", "-", env=environment(url), stdin=known)
    assert added.code == 0, added.err


async def until_spent(exchange: Simulator, weight: int) -> None:
    """Other processes spend it; there is no event to await."""
    async with asyncio.timeout(60):
        while exchange.stats.weight_spent < weight:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def most_in_a_period(charges: Iterable[tuple[float, int]], seconds: float) -> int:
    """The greatest weight charged within any span of so many seconds."""
    span: deque[tuple[float, int]] = deque()
    most = 0
    for time, weight in charges:
        span.append((time, weight))
        while span[0][0] <= time - seconds:
            span.popleft()
        most = max(most, sum(one for _, one in span))
    return most


def test_runs_of_one_lane_share_its_budget_though_one_is_killed_and_started_again(migrated_url: str) -> None:
    """Killed in the middle of a period, started again within it, and no answer 429."""

    async def scenario() -> None:
        async with Simulator(exchange_of(100, period=5.0)) as exchange:
            await enroll(migrated_url, exchange)
            env = environment(migrated_url, exchange)
            one, other = [await start("run", "--lane", "one", "--concurrency", "6", env=env) for _ in range(2)]
            await until_spent(exchange, 2000)
            await stopped(one, signal.SIGKILL)
            again = await start("run", "--lane", "one", "--concurrency", "6", env=env)
            ends = [await finish(process) for process in (other, again)]
            assert [end.code for end in ends] == [0, 0], [end.err for end in ends]
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            assert exchange.stats.throttled == 0
            assert most_in_a_period(exchange.charges, exchange.config.period_seconds) <= ALLOWED + OVERSHOOT_WEIGHT
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_faults") == 0
            assert exchange.stats.weight_spent > 2 * ALLOWED, "too little was to be spent to show anything"

    run(scenario())


def test_a_run_started_again_within_the_period_goes_on_from_what_that_has_spent(migrated_url: str) -> None:
    """Interrupted when all is spent; what it spent is remembered by the database alone."""

    async def scenario() -> None:
        async with Simulator(exchange_of(45, period=8.0)) as exchange:
            await enroll(migrated_url, exchange)
            env = environment(migrated_url, exchange)
            process = await start("run", "--lane", "one", env=env)
            await until_spent(exchange, 900)
            assert (await stopped(process, signal.SIGINT)).code == 130
            again = await vigil("run", "--lane", "one", env=env)
            assert again.code == 0, again.err
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            assert exchange.stats.throttled == 0

    run(scenario())


def test_runs_of_two_lanes_are_not_slowed_by_one_another(migrated_url: str) -> None:
    """The exchange sees one address here, and allows it what two may have: two minutes, and an overshoot of each."""

    async def scenario() -> None:
        async with Simulator(exchange_of(100, period=5.0, allowed=2 * ALLOWED + OVERSHOOT_WEIGHT)) as exchange:
            await enroll(migrated_url, exchange)
            env = environment(migrated_url, exchange)
            both = [await start("run", "--lane", lane, env=env) for lane in ("one", "two")]
            async with asyncio.timeout(60):
                while await ask(migrated_url, SHARES) != [ALLOWED, ALLOWED]:  # noqa: ASYNC110  they agree by themselves
                    await asyncio.sleep(0.05)
            ends = [await finish(process) for process in both]
            assert [end.code for end in ends] == [0, 0], [end.err for end in ends]
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            assert exchange.stats.throttled == 0

    run(scenario())
