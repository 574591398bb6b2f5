"""A newcomer has one day of archives and nothing else: users, their order, and a whole backfill come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.archives import loaded
from tests.kit.backfill import WINDOW, ask, compared, everybody, settings_for, small, tell
from tests.kit.loop import run
from vigil.claims import Window
from vigil.pipeline import Run
from vigil.rehearsal import compare
from vigil.simulator import Simulator
from vigil.simulator.archives import write_archives
from vigil.simulator.info import InfoDesk
from vigil.urgency import HOUR_MS

MOVED_HOURS = 24


class NextDay(Simulator):
    """An exchange whose moving users have traded on for a day, and where time stands still."""

    def now_ms(self) -> int:
        return self.config.start_now_ms + MOVED_HOURS * HOUR_MS


def test_a_newcomer_gets_users_and_urgency_from_one_day_of_archive(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = InfoDesk.answer

    async def noted(desk: InfoDesk, request: object) -> object:
        asked.append((await request.json())["user"])  # type: ignore[attr-defined]
        return await answer(desk, request)  # type: ignore[arg-type]

    monkeypatch.setattr(InfoDesk, "answer", noted)

    async def scenario() -> None:
        config = small(24, 5, moving=0.3, moving_fills_per_hour=20.0, weight_per_minute=0)
        async with NextDay(config) as exchange:
            day = Window(config.start_now_ms, exchange.now_ms())
            write_archives(exchange.population, tmp_path, day.start_ms, day.end_ms + 1, now_ms=exchange.now_ms())
            population = exchange.population
            moving = {population.address(i) for i in range(24) if population.is_moving(i)}
            assert len(moving) > 3
            tally = await loaded(migrated_url, tmp_path)
            assert tally.inserted == await ask(migrated_url, "SELECT count(*) FROM fills")
            known = set(await ask(migrated_url, "SELECT array_agg(user_address) FROM backfill_progress"))
            assert known == moving
            # Everything of the archived day is in the table, as the exchange tells it; block_time is the archive's own.
            archived = await compare(migrated_url, exchange.url, Window(day.start_ms, day.end_ms + 1))
            assert archived.equal
            everyone = [user for user in everybody(exchange) if user not in moving]
            await tell(migrated_url, "INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[])", everyone)
            job = Run(settings_for(exchange, concurrency=1), migrated_url, WINDOW)
            job.urgency.now_ms = exchange.now_ms
            await job.urgency.estimate()
            asked.clear()
            assert (await job.execute()).users_done == 24
            order = list(dict.fromkeys(asked))
            assert set(order[: len(moving)]) == moving
            await tell(migrated_url, "DELETE FROM fills WHERE time >= to_timestamp($1 / 1000.0)", float(WINDOW.end_ms))
            assert (await compared(exchange, migrated_url)).equal

    run(scenario())
