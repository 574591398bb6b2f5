"""Users whose history is being lost are asked for first: a whole run, as the exchange sees it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from tests.kit.backfill import WINDOW, compared, everybody, settings_for, small, tell, until
from tests.kit.loop import run
from vigil import urgency as urgency_module
from vigil.pipeline import Run
from vigil.simulator import Simulator
from vigil.simulator.info import InfoDesk
from vigil.urgency import HOUR_MS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOVING_HOURS = 3
LONGEST = 3_000
MOVING: dict[str, Any] = {"moving": 0.25, "moving_fills_per_hour": 300.0, "weight_per_minute": 0}


class Later(Simulator):
    """An exchange whose moving users have traded on for some hours, and where time stands still."""

    def now_ms(self) -> int:
        return self.config.start_now_ms + MOVING_HOURS * HOUR_MS


def moving_users(exchange: Simulator) -> list[str]:
    population = exchange.population
    return [population.address(i) for i in range(population.size) if population.is_moving(i)]


class Doorman:
    """Stands before the exchange: notes who is asked for, and lets nobody in before the doors are `opened`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        self.asked: list[str] = []
        answer = InfoDesk.answer

        async def noted(desk: InfoDesk, request: web.Request) -> web.StreamResponse:
            self.asked.append((await request.json())["user"])
            await self.opened.wait()
            return await answer(desk, request)

        monkeypatch.setattr(InfoDesk, "answer", noted)

    @property
    def order(self) -> list[str]:
        """Users in the order in which they were asked for first."""
        return list(dict.fromkeys(self.asked))


async def archived(exchange: Simulator, url: str) -> dict[str, int]:
    """Put what was traded after the window into `fills`, as archives would; how many rows by user."""
    connection = await asyncpg.connect(url)
    counts = {}
    try:
        for user in everybody(exchange):
            rows = exchange.truth(user, WINDOW.end_ms, None)
            counts[user] = len(rows)
            columns = ("user_address", "time", "coin", "side", "px", "sz", "oid", "tid")
            await connection.copy_records_to_table(
                "fills", columns=columns, records=[_record(user, row) for row in rows]
            )
    finally:
        await connection.close()
    return counts


def _record(user: str, row: dict[str, Any]) -> tuple[Any, ...]:
    time = EPOCH + timedelta(milliseconds=row["time"])
    return (user, time, row["coin"], row["side"], Decimal(row["px"]), Decimal(row["sz"]), row["oid"], row["tid"])


def backfilling(exchange: Simulator, url: str, users: list[str] | None = None) -> Run:
    run = Run(settings_for(exchange, concurrency=1), url, WINDOW, users=users)
    run.urgency.now_ms = exchange.now_ms
    return run


async def known_as_urgent(url: str, users: list[str]) -> None:
    """Wait until each of the users is, or has been claimed."""
    calm = "SELECT FROM backfill_progress WHERE state = 'pending' AND urgency = 0 AND user_address = ANY ($1)"
    await until(url, f"SELECT NOT EXISTS ({calm})", users)


async def enrolled(url: str, users: list[str]) -> None:
    await tell(url, "INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[])", users)


async def equal_within_the_window(exchange: Simulator, url: str) -> bool:
    """Whether what the run added is the exchange's truth; what the archives had is removed."""
    await tell(url, "DELETE FROM fills WHERE time >= $1", EPOCH + timedelta(milliseconds=WINDOW.end_ms))
    return (await compared(exchange, url)).equal


@pytest.mark.parametrize("listed", [False, True])
def test_who_trades_on_is_asked_for_first_and_who_is_nearest_to_the_end_before_others(
    migrated_url: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        doorman = Doorman(monkeypatch)
        async with Later(small(24, 5, lengths={2: LONGEST}, **MOVING)) as exchange:
            users, moving = everybody(exchange), moving_users(exchange)
            rows_after = await archived(exchange, migrated_url)
            await enrolled(migrated_url, users)
            running = asyncio.create_task(backfilling(exchange, migrated_url, users if listed else None).execute())
            await known_as_urgent(migrated_url, moving)
            doorman.opened.set()
            assert (await running).users_done == 24
            first, *others = doorman.order  # the first one may have been claimed before anything was known
            expected = sorted(set(moving) - {first}, key=lambda user: (-rows_after[user], user))
            assert len(expected) >= 4
            assert others[: len(expected)] == expected
            assert await equal_within_the_window(exchange, migrated_url)

    run(scenario())


def test_the_order_follows_archives_that_are_loaded_while_the_run_goes_on(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urgency_module, "PAUSE_SECONDS", 0.05)

    async def scenario() -> None:
        doorman = Doorman(monkeypatch)
        async with Later(small(24, 5, **MOVING)) as exchange:
            users, moving = everybody(exchange), moving_users(exchange)
            await enrolled(migrated_url, users)
            running = asyncio.create_task(backfilling(exchange, migrated_url).execute())
            await until(migrated_url, "SELECT count(*) = 1 FROM backfill_progress WHERE claimed_by IS NOT NULL")
            await archived(exchange, migrated_url)
            await known_as_urgent(migrated_url, moving)
            doorman.opened.set()
            await running
            first, *others = doorman.order
            expected = set(moving) - {first}
            assert set(others[: len(expected)]) == expected

    run(scenario())
