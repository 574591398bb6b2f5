"""One run of several workers that are killed again and again, and everything that is known of it afterwards.

Shared by `tests/flow/test_kills.py`, with some kills, and `benchmarks/kills.py`, with a hundred.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

from tests.kit.backfill import ask, compared, everybody, small
from tests.kit.command import Outcome, environment, vigil
from tests.kit.ledger import Life, broken_rules, lives, open_ledger
from tests.kit.mortals import Crew, Death, reap
from vigil.rehearsal import Comparison
from vigil.simulator import Population, Simulator, SimulatorConfig

LONG_EVERY, LONG_ROWS, PAGE_ROWS = 15, 3000, 500
"""One user in 15 takes seven pages, so that workers die inside of histories too."""


@dataclass(frozen=True)
class Aftermath:
    """What a killed run left behind."""

    deaths: list[Death]
    ends: list[Outcome]
    """Of the workers that were spared."""
    lives: list[Life]
    strangers: set[int]
    """Processes that became workers without being started by us."""
    broken_rules: dict[str, list[str]]
    found: Comparison
    never_asked_for: set[str]
    """Users that the exchange never answered for."""
    blemishes: dict[str, int]
    """What an interruption must not leave behind, where it is not 0."""
    whole_weight: int
    weight_spent: int
    throttled: int
    seconds: float

    @property
    def died_unborn(self) -> int:
        """Deaths before the process had become a worker."""
        return len({death.pid for death in self.deaths} - {life.pid for life in self.lives})

    @property
    def died_at_work(self) -> int:
        """Deaths with users in hand, which others had to take over."""
        killed = {death.pid for death in self.deaths}
        return sum(life.pid in killed and life.orphans > 0 for life in self.lives)


async def killed_run(url: str, lanes: Sequence[str], *, users: int, kills: int, seconds: float, seed: int) -> Aftermath:
    """Run a worker for each lane over `users` made-up ones, killing `kills` of them; the database must be fresh.

    Each lane is an address of its own. `seconds` is what the run would take unkilled, going by its weight.
    """
    config = _exchange(users, len(set(lanes)), seconds, seed)
    weight = whole_weight(config)
    async with Simulator(config) as exchange:
        env = environment(url, exchange)
        everyone = everybody(exchange)
        added = await vigil("users", "add", "--users-file", "-", env=env, stdin="\n".join(everyone).encode())
        if added.code != 0:
            raise RuntimeError(added.err)
        await open_ledger(url)
        crew = Crew([["run", "--lane", lane] for lane in lanes], env)
        began = asyncio.get_running_loop().time()
        with asked_users(exchange) as asked:
            ends = await reap(crew, exchange, weight, kills, random.Random(seed))
        took = asyncio.get_running_loop().time() - began
        workers = await lives(url)
        return Aftermath(
            deaths=crew.deaths,
            ends=ends,
            lives=workers,
            strangers={life.pid for life in workers} - crew.pids,
            broken_rules=await broken_rules(url),
            found=await compared(exchange, url),
            never_asked_for=set(everyone) - asked,
            blemishes=await _blemishes(url),
            whole_weight=weight,
            weight_spent=exchange.stats.weight_spent,
            throttled=exchange.stats.throttled,
            seconds=took,
        )


def whole_weight(config: SimulatorConfig) -> int:
    """What reading every history once costs if nothing goes wrong; those that reach beyond the window cost less."""
    population = Population(config.users, seed=config.seed, scale=config.scale, lengths=config.lengths)
    rows = [min(population.length(index), config.retention_rows) for index in range(population.size)]
    return sum(20 * (one // config.page_rows + 1) + math.ceil(one / 20) for one in rows)


def _exchange(users: int, addresses: int, seconds: float, seed: int) -> SimulatorConfig:
    """An exchange that sees all its clients behind one address, and allows that one what so many addresses may have."""
    config = small(
        users,
        seed,
        lengths=dict.fromkeys(range(0, users, LONG_EVERY), LONG_ROWS),
        page_rows=PAGE_ROWS,
        latency_seconds=(0.0, 0.05),  # or no worker would ever die while it waits for an answer
        weight_per_minute=1200 * addresses,
    )
    return replace(config, period_seconds=seconds * config.weight_per_minute / whole_weight(config))


@contextmanager
def asked_users(exchange: Simulator) -> Iterator[set[str]]:
    """The users that the exchange looks up while the block runs: those it was asked for and did not refuse."""
    users: set[str] = set()
    index = exchange.population.index

    def look_up(address: str) -> int | None:
        users.add(address)
        return index(address)

    with patch.object(exchange.population, "index", look_up):
        yield users


async def _blemishes(url: str) -> dict[str, int]:
    queries = {
        "users not completed": "SELECT count(*) FROM backfill_progress WHERE NOT completed",
        "attempts": "SELECT coalesce(sum(attempts), 0) FROM backfill_progress",
        "gaps": "SELECT count(*) FROM backfill_gaps",
        "rejected rows": "SELECT count(*) FROM rejected_fills",
    }
    counts = {name: int(await ask(url, query)) for name, query in queries.items()}
    return {name: count for name, count in counts.items() if count}
