"""The upkeep: `fills_daily` right at every moment, chunks packed once the backfill has left them, nothing lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.kit.backfill import OWN_SESSIONS, ask, backfill, compared, settings_for, small, tell, until
from tests.kit.command import environment, start, stopped, vigil
from tests.kit.loop import run
from vigil import upkeep as upkeep_module
from vigil.claims import new_worker_id
from vigil.db import Link, connect, session
from vigil.judge import Judge
from vigil.repair import Repair
from vigil.simulator import Simulator
from vigil.status import read_status
from vigil.store import WRITER_SESSION
from vigil.upkeep import Upkept, maintain
from vigil.windows import Choice, Selection

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

on_timescaledb = pytest.mark.timescaledb

FIRST = datetime(2024, 1, 20, tzinfo=UTC)
DAILY = "day, user_address, coin, fee_token, fills, volume, taker_volume, fees, closed_pnl"
DIFFERENCE = f"""
    WITH truth AS (
        SELECT
            date_bin('1 day', time, timestamptz '2000-01-01 00:00:00+00') AS day, user_address, coin, fee_token,
            count(*) AS fills, sum(px * sz) AS volume,
            coalesce(sum(px * sz) FILTER (WHERE crossed), 0) AS taker_volume,
            sum(fee) AS fees, sum(closed_pnl) AS closed_pnl
        FROM fills GROUP BY 1, 2, 3, 4
    )
    SELECT count(*) FROM (
        (SELECT {DAILY} FROM fills_daily EXCEPT ALL TABLE truth)
        UNION ALL
        (TABLE truth EXCEPT ALL SELECT {DAILY} FROM fills_daily)
    ) AS wrong
"""
"""How many rows of `fills_daily` are wrong, missing or too many."""

UNPACKED = "SELECT count(*) FROM backfill_loose_chunks()"
PACKED = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'fills' AND is_compressed"


async def fill(url: str, days: int, *, user: int = 1, since: datetime = FIRST, each_hours: int = 6) -> None:
    """Some fills a day of one user."""
    await tell(
        url,
        "INSERT INTO fills (user_address, time, coin, side, px, sz, fee, fee_token, closed_pnl, crossed, oid, tid)"
        " SELECT '0x' || lpad($1::int::text, 40, '0'), $2::timestamptz + i * interval '1 hour' * $4, 'BTC', 'B',"
        " 10 + i, 2, 0.01, 'USDC', 1, i % 2 = 0, i, i"
        " FROM generate_series(0, $3::int * 24 / $4 - 1) AS i",
        user,
        since,
        days,
        each_hours,
    )


async def tended(url: str, *, now: bool = False, quiet: bool = False) -> tuple[Upkept, list[str]]:
    """What was done, as it is told at the end and as whoever watches has seen it, and what was said."""
    said: list[str] = []
    watched = Upkept()
    done = await maintain(url, said.append, now=now, quiet=quiet, done=watched)
    assert asdict(done) == asdict(watched)
    assert done.refreshed <= done.months
    assert done.packed + done.refused <= done.chunks
    return done, said


class Stopped(Exception):
    """In the middle of the upkeep."""


def after(steps: int) -> Callable[[str], None]:
    """What the upkeep tells ends it once it has told so many steps."""
    left = [steps]

    def told(sentence: str) -> None:
        left[0] -= 1
        if left[0] <= 0 and not sentence.startswith("nothing to do"):
            raise Stopped

    return told


WAITING_FOR_A_LOCK = f"SELECT count(*) = 1 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'"


@asynccontextmanager
async def locked_chunk(url: str, *, place: int) -> AsyncIterator[None]:
    """The upkeep gets as far as this chunk, and waits there while the block runs."""
    chunk = await ask(url, f"SELECT (array_agg(chunk ORDER BY from_time))[{place}] FROM backfill_loose_chunks()")
    async with session(url) as blocking, blocking.transaction():
        await blocking.execute(f"LOCK TABLE {chunk} IN SHARE MODE")
        yield


@asynccontextmanager
async def living_worker(url: str) -> AsyncIterator[None]:
    """One that holds its lock while the block runs; dead afterwards, with its lease not yet over."""
    worker = new_worker_id()
    async with session(url) as living:
        await living.execute("SELECT pg_advisory_lock($1)", worker)
        await living.execute(
            "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at) VALUES ($1, 'h', 1, now() + '1 h')",
            worker,
        )
        yield


# -- what is due ------------------------------------------------------------------------------------


@on_timescaledb
def test_the_daily_numbers_are_right_after_every_step_and_each_is_done_once(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 100)
        assert await ask(migrated_url, DIFFERENCE) == 0  # before the first refresh, too
        steps = 0
        while True:
            try:
                done, _ = await maintain(migrated_url, after(1)), None
                break
            except Stopped:
                steps += 1
            assert await ask(migrated_url, DIFFERENCE) == 0
            assert steps < 30
        months, chunks = 5, await ask(migrated_url, PACKED)  # the first chunk begins in the month before
        assert chunks == await ask(migrated_url, "SELECT count(*) FROM show_chunks('fills')") > 3
        assert steps == months + chunks
        assert (done.refreshed, done.packed) == (0, 0)

    run(scenario())


@on_timescaledb
def test_late_rows_make_their_days_stale_and_their_chunk_loose_until_the_next_upkeep(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 90)
        await tended(migrated_url)
        async with session(migrated_url) as connection:
            assert (await read_status(connection)).daily_stale is None
            await fill(migrated_url, 2, user=2, since=FIRST + timedelta(days=35))
            stale = (await read_status(connection)).daily_stale
        assert stale is not None
        first, end = (datetime.fromtimestamp(stale[edge] / 1000, UTC) for edge in ("from_ms", "to_ms"))
        assert (first, end) == (FIRST + timedelta(days=35), FIRST + timedelta(days=37))
        await fill(migrated_url, 1, user=3, since=FIRST + timedelta(days=37), each_hours=24)  # at midnight, and no more
        assert await ask(migrated_url, "SELECT max(until_time) FROM backfill_daily_behind()") == end + timedelta(days=1)
        assert "behind within [2024-02-24, 2024-02-27)" in (await vigil("status", env=environment(migrated_url))).out
        assert await ask(migrated_url, DIFFERENCE) > 0
        assert await ask(migrated_url, UNPACKED) == 1
        done, _ = await tended(migrated_url)
        assert (done.refreshed, done.packed) == (1, 1)
        assert await ask(migrated_url, DIFFERENCE) == 0
        async with session(migrated_url) as connection:
            assert (await read_status(connection)).daily_stale is None
        assert (await tended(migrated_url))[1] == [
            "nothing to do: fills_daily is up to date, and every chunk that can be packed is"
        ]

    run(scenario())


@on_timescaledb
def test_a_span_between_chunks_is_never_behind(migrated_url: str) -> None:
    """Nothing is refreshed where no chunk is: after a newer refresh, that stays in TimescaleDB's books for ever."""

    async def scenario() -> None:
        await fill(migrated_url, 2, since=FIRST + timedelta(days=300))
        await tended(migrated_url)
        await fill(migrated_url, 2)
        await fill(migrated_url, 2, since=FIRST + timedelta(days=100))
        await tended(migrated_url)
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_daily_behind()") == 0
        assert await ask(migrated_url, DIFFERENCE) == 0

    run(scenario())


@on_timescaledb
def test_recent_chunks_stay_as_they_are_and_today_is_added_up_when_asked(migrated_url: str) -> None:
    async def scenario() -> None:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        await fill(migrated_url, 100, since=today - timedelta(days=99, hours=12))
        await tended(migrated_url)
        newest = "SELECT bool_or(is_compressed) FROM timescaledb_information.chunks WHERE range_end > now()"
        assert await ask(migrated_url, newest) is False
        assert await ask(migrated_url, PACKED) >= 2
        await fill(migrated_url, 1, user=2, since=today)
        assert await ask(migrated_url, DIFFERENCE) == 0

    run(scenario())


@on_timescaledb
def test_chunks_of_users_that_are_still_to_be_read_wait_unless_told_otherwise(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 100)
        window_end = FIRST + timedelta(days=50)
        await tell(
            migrated_url,
            "INSERT INTO backfill_progress (user_address, window_start_ms, window_end_ms, cursor_ms)"
            " VALUES ('0x' || repeat('7', 40), 0, extract(epoch FROM $1::timestamptz) * 1000, 0)",
            window_end,
        )
        done, said = await tended(migrated_url)
        behind = "SELECT count(*) FROM show_chunks('fills', newer_than => $1::timestamptz)"
        assert done.packed == await ask(migrated_url, behind, window_end) > 0
        assert done.waiting == await ask(migrated_url, UNPACKED) > 0
        assert any("--now" in sentence for sentence in said)
        await tell(migrated_url, "UPDATE backfill_progress SET window_end_ms = NULL")
        assert (await tended(migrated_url))[0].waiting == done.waiting
        assert (await tended(migrated_url, now=True))[0].packed == done.waiting
        assert await ask(migrated_url, UNPACKED) == 0

    run(scenario())


@on_timescaledb
@pytest.mark.parametrize("job", [False, True])
def test_it_gives_way_to_a_live_worker_and_not_to_a_dead_one(migrated_url: str, job: bool) -> None:
    async def tend() -> None:
        if job:
            await tell(migrated_url, f"CALL run_job({await ask(migrated_url, number)})")
        else:
            await tended(migrated_url)

    number = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'backfill_upkeep'"

    async def scenario() -> None:
        await fill(migrated_url, 60)
        loose = await ask(migrated_url, UNPACKED)
        async with living_worker(migrated_url):
            await tend()
            assert await ask(migrated_url, UNPACKED) == loose > 0
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_months_behind()") > 0
        await until(migrated_url, "SELECT backfill_workers_alive() = 0")
        await tend()
        assert await ask(migrated_url, UNPACKED) == 0
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_months_behind()") == 0
        assert await ask(migrated_url, DIFFERENCE) == 0

    run(scenario())


@on_timescaledb
def test_a_worker_that_begins_in_the_middle_of_a_chunk_need_not_wait_for_it(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "LOOK_SECONDS", 0.02)

    async def scenario() -> None:
        await fill(migrated_url, 100)
        async with locked_chunk(migrated_url, place=2):
            upkeep = asyncio.ensure_future(tended(migrated_url))
            await until(migrated_url, WAITING_FOR_A_LOCK)
            async with living_worker(migrated_url):
                done, said = await upkeep
        assert done.gave_way
        assert "workers are at it" in said[-1]
        assert done.packed == await ask(migrated_url, PACKED) == 1
        assert (await tended(migrated_url))[0].packed > 1
        assert await ask(migrated_url, UNPACKED) == 0

    run(scenario())


@on_timescaledb
def test_two_upkeeps_at_once_do_not_meet(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 40)
        async with session(migrated_url) as first:
            await first.execute("SELECT pg_advisory_lock(1447643471, 0)")
            done, said = await tended(migrated_url)
            assert (done.refreshed, done.packed) == (0, 0)
            assert "another upkeep is under way" in said[0]
            await tell(migrated_url, "CALL backfill_upkeep(0, NULL)")
            assert await ask(migrated_url, PACKED) == 0

    run(scenario())


@on_timescaledb
def test_chunks_are_left_to_a_policy_that_somebody_has_added(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 60)
        await tell(migrated_url, "SELECT add_compression_policy('fills', interval '9000 days')")
        done, said = await tended(migrated_url)
        assert (done.packed, done.waiting) == (0, 0)
        assert done.refreshed > 0
        assert "policy" in said[0]

    run(scenario())


@on_timescaledb
def test_a_chunk_that_can_not_be_packed_is_told_and_holds_up_no_other(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 100)
        first = "SELECT chunk FROM backfill_loose_chunks() LIMIT 1"
        await tell(migrated_url, f"CREATE VIEW broken AS SELECT '{await ask(migrated_url, first)}' AS chunk")
        await tell(
            migrated_url,
            "CREATE OR REPLACE FUNCTION backfill_compress_chunk(chunk text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
            " IF chunk = (SELECT broken.chunk FROM broken) THEN RAISE 'as the test wishes'; END IF;"
            " PERFORM compress_chunk(chunk::regclass); END $$",
        )
        done, said = await tended(migrated_url)
        assert done.refused == 1
        assert done.packed == await ask(migrated_url, PACKED) > 2
        assert any("as the test wishes" in sentence for sentence in said)
        await tell(migrated_url, "CALL backfill_upkeep(0, NULL)")
        assert (await vigil("maintain", env=environment(migrated_url))).code == 1

    run(scenario())


@on_timescaledb
def test_where_the_books_of_timescaledb_can_not_be_read_everything_counts_as_behind(migrated_url: str) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 60)
        await tended(migrated_url)
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_months_behind()") == 0
        books = "_timescaledb_catalog.continuous_aggs_materialization_invalidation_log"
        await tell(migrated_url, f"ALTER TABLE {books} RENAME COLUMN lowest_modified_value TO renamed")
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_months_behind()") > 1
        async with session(migrated_url) as connection:
            assert (await read_status(connection)).daily_stale is None  # unknown is not claimed to be stale

    run(scenario())


# -- the command, and the run's end -----------------------------------------------------------------


@on_timescaledb
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_at_once_and_the_next_one_goes_on(
    migrated_url: str, signum: signal.Signals, code: int
) -> None:
    async def scenario() -> None:
        await fill(migrated_url, 100)
        async with locked_chunk(migrated_url, place=3):
            process = await start("maintain", env=environment(migrated_url))
            await until(migrated_url, WAITING_FOR_A_LOCK)
            outcome = await stopped(process, signum)
        assert outcome.code == code, outcome.err
        assert "interrupted" in outcome.out
        assert await ask(migrated_url, PACKED) == 2
        assert (await vigil("maintain", env=environment(migrated_url))).code == 0
        assert await ask(migrated_url, UNPACKED) == 0
        assert await ask(migrated_url, DIFFERENCE) == 0

    run(scenario())


@on_timescaledb
def test_a_run_ends_with_the_upkeep_and_with_0_even_if_that_fails(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(3, 77, lengths=dict.fromkeys(range(3), 60))) as exchange:
            env = environment(migrated_url, exchange, VIGIL_MAINTAIN=1)
            users = [exchange.population.address(index) for index in range(3)]
            outcome = await vigil("run", "--user", users[0], env=env)
            assert outcome.code == 0, outcome.err
            assert "packed" in outcome.err
            assert await ask(migrated_url, UNPACKED) == 0
            assert await ask(migrated_url, DIFFERENCE) == 0
            assert "up to date" not in (await vigil("run", "--user", users[0], env=env)).err  # it wrote nothing
            await tell(
                migrated_url,
                "CREATE OR REPLACE PROCEDURE backfill_refresh_daily(from_time timestamptz, until_time timestamptz)"
                " LANGUAGE plpgsql AS $$ BEGIN RAISE 'as the test wishes'; END $$",
            )
            outcome = await vigil("run", "--user", users[1], env=env)
            assert outcome.code == 0, outcome.err
            assert "as the test wishes" in outcome.err
            assert "`vigil-backfill maintain`" in outcome.err
            assert (await vigil("maintain", env=env)).code == 1

    run(scenario())


def test_where_there_is_nothing_to_tend_the_command_says_why_and_exits_with_0(migrated_url: str) -> None:
    async def scenario() -> None:
        if not await ask(migrated_url, "SELECT hypertable FROM backfill_shape()"):
            outcome = await vigil("maintain", env=environment(migrated_url))
            assert "nothing to tend: plain Postgres" in outcome.out
        else:
            await tell(migrated_url, "DROP MATERIALIZED VIEW fills_daily")
            await tell(migrated_url, "DROP TABLE fills; CREATE TABLE fills (LIKE rejected_fills)")
            done, (sentence,) = await tended(migrated_url)
            assert "nothing to tend: `fills` is a plain table" in sentence
            assert done == Upkept()
            return
        assert outcome.code == 0

    run(scenario())


# -- packed rows are rows ---------------------------------------------------------------------------


@on_timescaledb
def test_verdicts_and_repairs_are_the_same_over_packed_chunks(migrated_url: str) -> None:
    verdicts = (
        "SELECT array_agg((user_address, coin, verdict, causes, evidence)::text ORDER BY user_address, coin)"
        " FROM backfill_verdicts"
    )

    async def judge_again(exchange: Simulator) -> None:
        await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL, verdict = NULL")
        link = Link(migrated_url, settings_for(exchange))
        await Judge(link, (0, 2**32), ask_for_slices=False).judge_all()
        await link.close()

    async def scenario() -> None:
        async with Simulator(small(25, 78, lengths={0: 2_500, 1: 400})) as exchange:
            await backfill(exchange, migrated_url)
            await judge_again(exchange)
            before = await ask(migrated_url, verdicts)
            await tended(migrated_url)
            assert await ask(migrated_url, PACKED) > 10
            await judge_again(exchange)
            assert await ask(migrated_url, verdicts) == before
            user = exchange.population.address(0)
            await tell(migrated_url, "DELETE FROM fills WHERE user_address = $1 AND tid % 3 = 0", user)
            everything = Selection(Choice.ALL, users=[user])
            summary = await Repair(settings_for(exchange), migrated_url, everything, lambda _: None).execute()
            assert summary.added > 500
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            await tended(migrated_url)
            assert await ask(migrated_url, UNPACKED) == 0
            assert await ask(migrated_url, DIFFERENCE) == 0

    run(scenario())


@on_timescaledb
def test_rows_that_tell_more_of_a_hundred_thousand_packed_ones_are_taken(migrated_url: str) -> None:
    update = (
        "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid, seq)"
        " SELECT user_address, time, coin, side, px, sz, oid, tid, 1 FROM fills WHERE tid % 500 = 0"
        " ON CONFLICT (user_address, time, coin, oid, tid, side) DO UPDATE SET seq = excluded.seq"
    )

    async def scenario() -> None:
        await tell(
            migrated_url,
            "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
            " SELECT '0x' || lpad('1', 40, '0'), $1::timestamptz + i * interval '1 second', 'BTC', 'B', 1, 1, i, i"
            " FROM generate_series(1, 110000) AS i",
            FIRST,
        )
        await tended(migrated_url)
        with pytest.raises(asyncpg.ConfigurationLimitExceededError):
            await tell(migrated_url, update)
        writing = await connect(migrated_url, WRITER_SESSION)
        try:
            assert await writing.execute(update) == "INSERT 0 220"
        finally:
            await writing.close()

    run(scenario())


def test_the_writers_session_is_taken_by_every_server(migrated_url: str) -> None:
    async def scenario() -> dict[str, Any]:
        connection = await connect(migrated_url, WRITER_SESSION)
        try:
            return {name: await connection.fetchval("SELECT current_setting($1)", name) for name in WRITER_SESSION}
        finally:
            await connection.close()

    assert run(scenario()) == WRITER_SESSION
