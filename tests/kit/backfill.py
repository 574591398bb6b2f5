"""A run in this process against a simulator on a socket and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from vigil.claims import EVERYBODY, Shard, Window
from vigil.pipeline import Run
from vigil.rehearsal import Comparison, compare
from vigil.settings import Settings
from vigil.simulator import Simulator, SimulatorConfig
from vigil.tally import Tally

WINDOW = Window(1_672_531_200_000, 1_753_574_400_000)
"""The default one: [2023-01-01, 2025-07-27)."""

OWN_SESSIONS = "(SELECT * FROM pg_stat_activity WHERE datname = current_database()) AS own_sessions"
"""To select from: tests that run at the same time on one server give their workers the same names."""

PERIOD_SECONDS = 0.05
"""Length of the exchange's minute in tests: 1200 times faster than real."""


def settings_for(exchange: Simulator, **overrides: Any) -> Settings:
    """Settings as users have them, but impatient, and with the simulator's short minute."""
    given: dict[str, Any] = {
        "api_url": exchange.url,
        "weight_period_seconds": exchange.config.period_seconds,
        "retry_max_seconds": 0.05,
        "batch_seconds": 0.02,
        "request_timeout_seconds": 5.0,
        "startup_patience_seconds": 0.5,
        "outage_patience_seconds": 5.0,
        **overrides,
    }
    return Settings(**{"_env_file": None, **given})


def small(users: int, seed: int, **changes: Any) -> SimulatorConfig:
    """A population of short histories, under a fast minute."""
    return SimulatorConfig(**{"users": users, "seed": seed, "scale": 0.2, "period_seconds": PERIOD_SECONDS, **changes})


async def backfill(
    exchange: Simulator,
    url: str,
    *,
    window: Window = WINDOW,
    users: Sequence[str] | None = None,
    shard: Shard = EVERYBODY,
    limit: int | None = None,
    **overrides: Any,
) -> Tally:
    """One run to its end; `users` None means all of the simulator's, by name."""
    if users is None:
        users = everybody(exchange)
    run = Run(settings_for(exchange, **overrides), url, window, users=users, shard=shard, limit=limit)
    return await run.execute()


def everybody(exchange: Simulator) -> list[str]:
    recorded = dict.fromkeys(exchange.recording.files.values())
    return [*exchange.population.addresses(0, exchange.population.size), *recorded]


async def compared(exchange: Simulator, url: str, window: Window = WINDOW) -> Comparison:
    """The table against the simulator's truth; progress must add up as well."""
    connection = await asyncpg.connect(url)
    try:
        wrong = await connection.fetch(
            "SELECT user_address, fills_count FROM backfill_progress AS p"
            " WHERE fills_count <> (SELECT count(*) FROM fills AS f WHERE f.user_address = p.user_address)"
        )
    finally:
        await connection.close()
    assert not wrong, f"fills_count differs from the rows there are: {wrong[:3]}"
    return await compare(url, exchange.url, window)


async def ask(url: str, query: str, *arguments: Any) -> Any:
    """One value from the database."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def tell(url: str, statement: str, *arguments: Any) -> None:
    """One statement to the database."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def until(url: str, query: str, *arguments: Any) -> None:
    """Wait until `query` is true. Another process makes it so; there is no event to await."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(10):
            while not await connection.fetchval(query, *arguments):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await connection.close()
