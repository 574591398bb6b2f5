"""The main job, end to end, in this process: simulator on a socket -> run -> real database. Table == truth."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.kit.backfill import PERIOD_SECONDS, WINDOW, ask, backfill, compared, everybody, settings_for, small, tell
from tests.kit.loop import run
from vigil.claims import Shard, Window
from vigil.pipeline import Run
from vigil.simulator import FaultPlan, Simulator, SimulatorConfig, UserFault


def test_table_equals_truth_and_a_second_run_changes_nothing(migrated_url: str) -> None:
    async def scenario() -> None:
        config = small(60, 1, lengths={3: 4_500, 4: 2_000, 5: 1})
        async with Simulator(config) as exchange:
            first = await backfill(exchange, migrated_url)
            assert (first.users_done, first.users_failed, first.exit_code) == (60, 0, 0)
            found = await compared(exchange, migrated_url)
            assert found.rows == first.inserted > 5_000
            assert found.equal, found.examples
            assert exchange.stats.throttled == 0
            second = await backfill(exchange, migrated_url)
            assert (second.requests, second.inserted, second.updated) == (0, 0, 0)

    run(scenario())


def test_reading_a_history_again_rewrites_no_row(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(20, 2, lengths={0: 3_000})) as exchange:
            first = await backfill(exchange, migrated_url)
            stamp = "SELECT md5(string_agg(xmin::text || ctid::text, ',' ORDER BY user_address, time, seq)) FROM fills"
            before = await ask(migrated_url, stamp)
            earlier = Window(WINDOW.start_ms - 86_400_000, WINDOW.end_ms)
            again = await backfill(exchange, migrated_url, window=earlier)
            assert (again.inserted, again.updated) == (0, 0)
            assert again.already_there == again.received == first.inserted
            assert await ask(migrated_url, stamp) == before

    run(scenario())


def test_every_recorded_row_arrives_column_by_column(migrated_url: str, real_fills: Path) -> None:
    async def scenario() -> None:
        config = SimulatorConfig(users=0, replay=real_fills, period_seconds=PERIOD_SECONDS)
        window = Window(WINDOW.start_ms, 1_793_491_200_000)
        async with Simulator(config) as exchange:
            tally = await backfill(exchange, migrated_url, window=window)
            found = await compared(exchange, migrated_url, window)
            assert found.equal, found.examples
            assert found.rows == tally.inserted > 11_000
            assert await ask(migrated_url, "SELECT count(*) FROM fills WHERE tid < 0") == 500
            assert await ask(migrated_url, "SELECT count(*) FROM rejected_fills") == 0
            again = await backfill(exchange, migrated_url, window=window)
            assert again.received == 0

    run(scenario())


def test_recorded_answers_shifted_into_the_window_arrive_too(migrated_url: str, real_fills: Path) -> None:
    async def scenario() -> None:
        config = SimulatorConfig(
            users=0, replay=real_fills, replay_shift_end_ms=WINDOW.end_ms, period_seconds=PERIOD_SECONDS
        )
        async with Simulator(config) as exchange:
            await backfill(exchange, migrated_url)
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            assert found.rows > 11_000

    run(scenario())


def test_an_exchange_that_misbehaves_costs_time_but_no_row(migrated_url: str) -> None:
    chances = {"429": 0.05, "500": 0.05, "502": 0.03, "403": 0.02, "html200": 0.03, "cut": 0.05, "reset": 0.05}

    async def scenario() -> None:
        config = small(60, 3, lengths={0: 4_000}, faults=FaultPlan(chances=chances, seed=3))
        async with Simulator(config) as exchange:
            tally = await backfill(exchange, migrated_url, request_tries=20)
            assert tally.exit_code == 0
            assert sum(exchange.stats.faults.values()) >= 10
            assert tally.faults["throttled"] == exchange.stats.faults.get("429", 0)
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_a_user_the_exchange_refuses_fails_alone_and_the_next_run_tries_again(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(12, 4)) as healthy:
            victim = everybody(healthy)[5]
        config = small(12, 4, faults=FaultPlan(per_user={victim: UserFault("500")}))
        async with Simulator(config) as exchange:
            tally = await backfill(exchange, migrated_url, request_tries=3)
            assert (tally.users_done, tally.users_failed, tally.exit_code) == (11, 1, 3)
            row = (
                "SELECT state::text || ' ' || attempts || ' ' || last_error FROM backfill_progress"
                " WHERE user_address = $1"
            )
            assert (await ask(migrated_url, row, victim)).startswith("failed 1 The exchange answers with status 500")
        async with Simulator(small(12, 4)) as exchange:
            tally = await backfill(exchange, migrated_url)
            assert (tally.users_done, tally.exit_code) == (1, 0)
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_users_of_the_fills_table_are_found_and_archive_values_stay(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(6, 5, lengths={0: 40, 1: 5})) as exchange:
            user = exchange.population.address(0)
            row = exchange.truth(user, WINDOW.start_ms, WINDOW.end_ms - 1)[-1]
            await tell(
                migrated_url,
                "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid, twap_id, block_time)"
                " VALUES ($1, to_timestamp($2::bigint / 1000.0), $3, $4, $5::text::numeric, $6::text::numeric, $7, $8,"
                " 77, '2024-01-01')",
                user,
                *(row[name] for name in ("time", "coin", "side", "px", "sz", "oid", "tid")),
            )
            known = [user, exchange.population.address(1)]
            await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ($1)", known[1])
            tally = await Run(settings_for(exchange), migrated_url, WINDOW).execute()
            assert tally.users_done == 2
            assert tally.updated == 1
            kept = "SELECT twap_id || ' ' || block_time::date || ' ' || dir FROM fills WHERE block_time IS NOT NULL"
            assert await ask(migrated_url, kept) == f"77 2024-01-01 {row['dir']}"
            rows = "SELECT count(*) FROM fills WHERE user_address = $1"
            for user in known:
                truth = exchange.truth(user, WINDOW.start_ms, WINDOW.end_ms - 1)
                assert await ask(migrated_url, rows, user) == len(truth)

    run(scenario())


def test_workers_with_numbers_share_the_users_without_overlap(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(40, 6)) as exchange:
            tallies = [await backfill(exchange, migrated_url, shard=Shard(i, 3)) for i in range(3)]
            assert sum(tally.users_done for tally in tallies) == 40
            assert all(tally.users_done for tally in tallies)
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_workers_without_numbers_share_all_users_and_claim_none_twice(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 7, weight_per_minute=0)) as exchange:
            tallies = await asyncio.gather(*(backfill(exchange, migrated_url) for _ in range(3)))
            assert sum(tally.users_done for tally in tallies) == 60
            assert sum(tally.already_there for tally in tallies) == 0
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_limit_stops_after_so_many_users(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(20, 8)) as exchange:
            assert (await backfill(exchange, migrated_url, limit=5)).users_done == 5
            assert (await backfill(exchange, migrated_url, limit=0)).users_done == 0
            assert (await backfill(exchange, migrated_url)).users_done == 15

    run(scenario())


@pytest.mark.parametrize(
    ("first", "second", "read_again"),
    [
        ((0.0, 0.5), (0.0, 1.0), False),  # wider at the end: goes on at the cursor
        ((0.5, 1.0), (0.0, 1.0), True),  # wider at the start: begins anew
        ((0.0, 0.3), (0.6, 1.0), False),  # apart: begins anew, the earlier rows stay
    ],
)
def test_a_wider_window_is_read_where_it_was_not(
    migrated_url: str, first: tuple[float, float], second: tuple[float, float], read_again: bool
) -> None:
    def part(share: tuple[float, float]) -> Window:
        length = WINDOW.end_ms - WINDOW.start_ms
        return Window(WINDOW.start_ms + int(share[0] * length), WINDOW.start_ms + int(share[1] * length))

    async def scenario() -> None:
        async with Simulator(small(15, 9, lengths={0: 2_500})) as exchange:
            await backfill(exchange, migrated_url, window=part(first))
            covered = await backfill(exchange, migrated_url, window=part(first))
            assert covered.requests == 0
            tally = await backfill(exchange, migrated_url, window=part(second))
            assert tally.users_done == 15
            assert (tally.already_there > 0) == read_again
            for window in (part(first), part(second)):
                found = await compared(exchange, migrated_url, window)
                assert found.equal, found.examples

    run(scenario())


def test_history_pushed_out_of_reach_during_the_walk_is_recorded_as_a_gap(migrated_url: str) -> None:
    async def scenario() -> None:
        config = SimulatorConfig(
            users=1, seed=10, lengths={0: 12_000}, retention_rows=9_000, page_rows=500, latency_seconds=(0.3, 0.3),
            moving=1.0, moving_fills_per_hour=9_000_000.0, weight_per_minute=0, period_seconds=0.5,
        )  # fmt: skip
        async with Simulator(config) as exchange:
            tally = await backfill(exchange, migrated_url)
            assert tally.users_done == 1
            gaps = await ask(migrated_url, "SELECT count(*) FROM backfill_gaps WHERE kind = 'retention'")
            assert tally.gaps == gaps >= 1

    run(scenario())


def test_a_millisecond_no_page_can_hold_is_recorded_and_passed(migrated_url: str) -> None:
    async def scenario() -> None:
        config = small(2, 11, lengths={0: 5_000}, saturated_users=(0,))
        async with Simulator(config) as exchange:
            tally = await backfill(exchange, migrated_url)
            assert tally.gaps == 1
            assert await ask(migrated_url, "SELECT from_ms = to_ms FROM backfill_gaps WHERE kind = 'saturated'")
            found = await compared(exchange, migrated_url)
            assert found.extra == 0
            assert found.missing == config.saturated_rows - config.page_rows

    run(scenario())
