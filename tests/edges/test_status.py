"""What `status` tells of workers, pace and what is left, and the samples that it rests on."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from tests.kit.backfill import WINDOW, ask, backfill, everybody, settings_for, small, tell, until
from tests.kit.command import environment, start, stopped, vigil
from tests.kit.loop import run
from vigil.db import Link
from vigil.errors import ExchangeUnavailable
from vigil.pipeline import Finished, Run
from vigil.samples import Samples
from vigil.settings import Settings
from vigil.simulator import FaultPlan, Simulator
from vigil.status import Status, read_status
from vigil.tally import LaneState, Tally

COUNTED = ("spent_weight", "requests", "pauses", "inserted", "received", "users_done", "users_failed")


async def sums(url: str) -> dict[str, int]:
    columns = ", ".join(f"'{name}', sum({name})" for name in COUNTED)
    return dict(json.loads(await ask(url, f"SELECT json_build_object({columns}) FROM backfill_samples")))


def of(tally: Tally) -> dict[str, int]:
    return {name: tally.weight if name == "spent_weight" else getattr(tally, name) for name in COUNTED}


async def status_of(url: str) -> Status:
    connection = await asyncpg.connect(url)
    try:
        return await read_status(connection, attempts=3)
    finally:
        await connection.close()


def test_the_samples_of_a_run_add_up_to_its_tally(migrated_url: str) -> None:
    async def scenario() -> None:
        plan = FaultPlan.parse(["502=0.2"], seed=3)
        async with Simulator(small(40, 5, faults=plan)) as exchange:
            tally = await backfill(exchange, migrated_url, lane="127.0.0.2,127.0.0.3")
        assert await sums(migrated_url) == of(tally)
        assert tally.users_done == 40
        lanes = "SELECT json_object_agg(lane, ok) FROM (SELECT lane, bool_and(allowed_weight > 0) AS ok"
        told = json.loads(await ask(migrated_url, f"{lanes} FROM backfill_samples GROUP BY lane) AS s"))
        assert told == {"127.0.0.2": True, "127.0.0.3": True}
        faults = "SELECT sum((faults->>'error_status')::bigint)::bigint FROM backfill_samples"
        assert await ask(migrated_url, faults) == tally.faults["error_status"] > 0
        assert (
            await ask(migrated_url, "SELECT count(*) FROM backfill_samples WHERE lane LIKE '%3' AND requests > 0") == 0
        )

    run(scenario())


def test_a_run_that_is_stopped_by_a_signal_writes_its_last_sample(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 6, period_seconds=1.0)) as exchange:
            users = everybody(exchange)
            told: list[Finished] = []

            def stop(user: Finished) -> None:
                if not told:  # a second signal would drop what is not committed
                    signal.raise_signal(signal.SIGTERM)
                told.append(user)

            run = Run(settings_for(exchange, weight_period_seconds=60), migrated_url, WINDOW, users=users, on_user=stop)
            tally = await run.execute()
        assert tally.signal == signal.SIGTERM
        assert await sums(migrated_url) == of(tally)
        assert 0 < tally.users_done < 60

    run(scenario())


def test_a_run_that_fails_writes_its_last_sample(migrated_url: str) -> None:
    async def scenario() -> None:
        plan = FaultPlan.parse(["500=1"], seed=4)
        async with Simulator(small(30, 8, faults=plan)) as exchange:
            given = settings_for(exchange, outage_patience_seconds=0.2, max_tries=2)
            run = Run(given, migrated_url, WINDOW, users=everybody(exchange))
            with pytest.raises(ExchangeUnavailable):
                await run.execute()
        assert await sums(migrated_url) == of(run.tally)
        assert run.tally.requests > 0

    run(scenario())


def test_a_sample_that_can_not_be_written_is_a_warning_and_goes_along_with_the_next(
    migrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        tally = Tally(lanes=(LaneState("a", 1200, 0, 0, open=True),))
        given: dict[str, Any] = {"_env_file": None}
        link = Link(migrated_url, Settings(**given))
        samples = Samples(link, 7, ["a"], 60.0, lambda: tally)
        samples.interval = 0.06
        await tell(migrated_url, "ALTER TABLE backfill_samples RENAME TO elsewhere")
        keeping = asyncio.ensure_future(samples.keep())
        async with asyncio.timeout(20):
            while len(caplog.records) < 3:  # each is a try in vain
                tally.received, tally.requests = tally.received + 1, tally.requests + 2
                tally.lanes = (replace(tally.lanes[0], spent_weight=10 * tally.requests),)
                await asyncio.sleep(0.01)
        assert not keeping.done()
        await tell(migrated_url, "ALTER TABLE elsewhere RENAME TO backfill_samples")
        await until(migrated_url, "SELECT count(*) > 3 FROM backfill_samples")
        keeping.cancel()
        await asyncio.wait({keeping})
        await samples.finish()
        await link.close()
        told = await sums(migrated_url)
        assert (told["received"], told["requests"]) == (tally.received, tally.requests)
        assert told["spent_weight"] == tally.lanes[0].spent_weight
        apart = "SELECT count(*) - count(DISTINCT at) FROM backfill_samples"
        assert await ask(migrated_url, apart) == 0, "each keeps the time at which it was taken"

    with caplog.at_level(logging.WARNING, logger="vigil.samples"):
        run(scenario())
    assert "tried again" in caplog.text


def test_old_samples_become_one_an_hour_and_lose_nothing(migrated_url: str) -> None:
    minutes = (
        "INSERT INTO backfill_samples"
        " SELECT date_trunc('hour', now()) - d * interval '1 day' + m * interval '1 minute',"
        " w, 'h', l, 60, 1200, 1000, 5, 1, 100, 110, 3, 1, jsonb_build_object('late', m, 'refused', 1)"
        " FROM generate_series(1, 4) AS d, generate_series(1, 2) AS w, unnest('{a,b}'::text[]) AS l,"
        " generate_series(0, 119) AS m"
    )
    faults = "SELECT sum((faults->>'late')::bigint + (faults->>'refused')::bigint)::bigint FROM backfill_samples"

    async def scenario() -> None:
        await tell(migrated_url, minutes)
        before = await sums(migrated_url), await ask(migrated_url, faults)
        for _ in range(2):  # the second finds nothing to do
            await tell(migrated_url, "SELECT backfill_thin_samples()")
            assert (await sums(migrated_url), await ask(migrated_url, faults)) == before
            old = "SELECT count(*) FROM backfill_samples WHERE at < now() - interval '50 h'"
            assert await ask(migrated_url, old) == 2 * 2 * 2 * 2  # days, hours, workers, lanes
            assert await ask(migrated_url, "SELECT max(seconds) FROM backfill_samples") == 3600
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_samples WHERE seconds = 60") == 2 * 120 * 2 * 2

    run(scenario())


async def a_fleet(connection: asyncpg.Connection[Any]) -> None:
    """Two workers, one of them dead, a quarter of an hour of samples, and users of whom ten were read."""
    await connection.execute(
        "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at, lane, share_weight, used_weight)"
        " VALUES (1, 'one', 11, now() + interval '1 min', 'a', 900, 800),"
        " (2, 'one', 11, now() + interval '1 min', 'b', 600, 600),"
        " (3, 'two', 22, now() + interval '1 min', 'a', 300, 0)"
    )
    await connection.execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")  # as a worker that lives does
    await connection.execute(
        "INSERT INTO backfill_samples SELECT now() - m * interval '1 minute', 1, 'one', lane, 60, 600, spent,"
        " rows / 100, 0, rows, rows, rows / 1000, 0"
        " FROM generate_series(0, 9) AS m, (VALUES ('a', 300, 6000), ('b', 600, 0)) AS l (lane, spent, rows)"
    )
    await connection.execute("INSERT INTO backfill_samples VALUES (now() - interval '1 h', 1, 'one', 'a', 60, 9, 9)")
    await connection.execute(
        "INSERT INTO backfill_progress (user_address, completed, sources, window_end_ms, fills_count, urgency)"
        " SELECT '0x' || lpad(n::text, 40, '0'), n < 10, CASE WHEN n < 10 THEN '{hyperliquid}' ELSE '{}' END::text[],"
        " 1, CASE WHEN n < 10 THEN 1000 ELSE 0 END, 0 FROM generate_series(0, 109) AS n"
    )


def test_status_tells_who_is_alive_how_fast_it_goes_and_when_it_ends(migrated_url: str) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(migrated_url)
        await a_fleet(connection)
        found = await read_status(connection, attempts=3)
        await connection.close()
        assert [(w["host"], w["pid"], w["lanes"], w["alive"]) for w in found.workers] == [
            ("one", 11, ["a", "b"], True),
            ("two", 22, ["a"], False),
        ]
        assert (found.workers_alive, found.workers_dead) == (1, 1)
        by_lane = {lane["lane"]: lane for lane in found.lanes}
        assert {name: lane["utilisation"] for name, lane in by_lane.items()} == {"a": 0.5, "b": 1.0}
        assert (by_lane["a"]["workers"], by_lane["a"]["workers_alive"]) == (2, 1)
        assert found.pace is not None
        assert found.pace["seconds"] == pytest.approx(600)
        assert found.pace["rows_per_second"] == pytest.approx(100)
        assert found.pace["users_per_hour"] == pytest.approx(360)
        assert found.pace["utilisation"] == 0.75
        assert found.users_left == 100
        # 100 like those that were read: 20, and 1000 rows / 20; at 1500 a minute, without the dead one's 300.
        assert found.weight_left == dict.fromkeys(("low", "expected", "high"), 7000)
        assert found.eta_seconds is not None
        assert list(found.eta_seconds.values()) == pytest.approx([280, 280, 280])

    run(scenario())


def test_without_workers_and_samples_nothing_is_made_up(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ('0x' || repeat('0', 40))")
        found = await status_of(migrated_url)
        assert (found.pace, found.weight_left, found.eta_seconds, found.workers) == (None, None, None, [])
        assert found.users_left == 1

    run(scenario())


def test_watching_prints_again_and_again_until_it_is_told_to_stop(migrated_url: str) -> None:
    async def scenario() -> None:
        env = environment(migrated_url)
        process = await start("status", "--watch", "0.1", "--json", env=env)
        assert process.stdout is not None
        await process.stdout.readline()
        await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ('0x' || repeat('0', 40))")
        async with asyncio.timeout(20):
            while json.loads(await process.stdout.readline())["users"] != 1:
                pass
        outcome = await stopped(process, signal.SIGINT)
        assert (outcome.code, outcome.err) == (0, "")

        process = await start("status", "--watch", "0.1", env=env)
        assert process.stdout is not None
        shown = await process.stdout.readuntil(b"\n\n")
        assert shown.startswith(b"users          1\n")
        assert (await stopped(process, signal.SIGTERM)).code == 0

    run(scenario())


def test_a_database_without_a_backfill_or_with_an_older_one_is_told_apart(database_url: str) -> None:
    async def scenario() -> None:
        env = environment(database_url)
        outcome = await vigil("status", env=env)
        assert (outcome.code, outcome.out) == (2, "")
        assert "This database has no backfill in it yet." in outcome.err
        assert (await vigil("migrate", env=env)).code == 0
        await tell(database_url, "DELETE FROM vigil_migrations WHERE version = 7")
        outcome = await vigil("status", "--json", env=env)
        assert (outcome.code, outcome.out) == (2, "")
        assert "schema is not up to date" in outcome.err
        assert "vigil-backfill migrate" in outcome.err

    run(scenario())
