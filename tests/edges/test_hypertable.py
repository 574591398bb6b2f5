"""The shape of `fills` and of `fills_daily`: what is set up, what is left alone, and what can't be had."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.kit.loop import run
from vigil.db import session
from vigil.hypertable import Shape, arrange, lacking, missing, read_shape

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

MIDNIGHT = datetime(2024, 3, 10, tzinfo=UTC)
ALICE, BOB = "0x" + "a" * 40, "0x" + "b" * 40

DAY_BEFORE = MIDNIGHT - timedelta(milliseconds=1)
LAST_MINUTE = MIDNIGHT + timedelta(hours=23, minutes=59)

Row = tuple[str, datetime, str, Decimal, Decimal, Decimal | None, str, Decimal | None, bool | None]

ROWS: list[Row] = [
    (ALICE, DAY_BEFORE, "BTC", Decimal("60000.5"), Decimal(2), Decimal("0.1"), "USDC", None, True),
    (ALICE, MIDNIGHT, "BTC", Decimal("60001"), Decimal("0.00000001"), Decimal("-0.2"), "USDC", Decimal("5"), False),
    (ALICE, LAST_MINUTE, "BTC", Decimal(3), Decimal(1), Decimal(7), "USDC", Decimal("-6"), None),
    (ALICE, MIDNIGHT, "PURR/USDC", Decimal("0.1"), Decimal("9"), Decimal("0.01"), "PURR", None, True),
    (ALICE, MIDNIGHT, "PURR/USDC", Decimal("0.1"), Decimal("9"), Decimal("0.02"), "USDC", None, True),
    (BOB, MIDNIGHT - timedelta(days=400), "BTC", Decimal("1"), Decimal("1"), None, "USDC", None, True),
]


async def insert(connection: Connection, rows: Sequence[Row], first_tid: int = 1) -> None:
    await connection.executemany(
        "INSERT INTO fills (user_address, time, coin, side, px, sz, fee, fee_token, closed_pnl, crossed, oid, tid)"
        " VALUES ($1, $2, $3, 'B', $4, $5, $6, $7, $8, $9, 1, $10)",
        [(*row, tid) for tid, row in enumerate(rows, first_tid)],
    )


async def daily(connection: Connection) -> list[tuple[Any, ...]]:
    found = await connection.fetch(
        "SELECT day, user_address, coin, fee_token, fills, volume, taker_volume, fees, closed_pnl FROM fills_daily"
    )
    return sorted((tuple(row) for row in found), key=str)


async def arranged(connection: Connection) -> list[str]:
    """What is said when the database is prepared once more."""
    said: list[str] = []
    await arrange(connection, said.append)
    return said


async def make_plain(connection: Connection) -> None:
    """The database as an earlier one without TimescaleDB would have left it: a plain table, and a plain view of it."""
    if (await read_shape(connection)).daily_aggregate:
        await connection.execute("DROP MATERIALIZED VIEW fills_daily")
    else:
        await connection.execute("DROP VIEW fills_daily")
    await connection.execute("ALTER TABLE fills RENAME TO others")
    await connection.execute("CREATE TABLE fills (LIKE others INCLUDING DEFAULTS)")
    await connection.execute("ALTER TABLE fills ADD PRIMARY KEY (user_address, time, coin, oid, tid, side)")
    await arrange(connection)


# -- fills_daily ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
def test_a_day_begins_at_midnight_utc_and_fees_are_added_up_token_by_token(migrated_url: str, plain: bool) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            if plain:
                await make_plain(connection)
            await connection.execute("SET timezone = 'Pacific/Chatham'")
            await insert(connection, ROWS)
            day = MIDNIGHT - timedelta(days=1)
            assert await daily(connection) == sorted(
                [
                    (day, ALICE, "BTC", "USDC", 1, Decimal("120001.0"), Decimal("120001.0"), Decimal("0.1"), None),
                    (MIDNIGHT, ALICE, "BTC", "USDC", 2, Decimal("3.00060001"), 0, Decimal("6.8"), Decimal(-1)),
                    (MIDNIGHT, ALICE, "PURR/USDC", "PURR", 1, Decimal("0.9"), Decimal("0.9"), Decimal("0.01"), None),
                    (MIDNIGHT, ALICE, "PURR/USDC", "USDC", 1, Decimal("0.9"), Decimal("0.9"), Decimal("0.02"), None),
                    (MIDNIGHT - timedelta(days=400), BOB, "BTC", "USDC", 1, 1, 1, None, None),
                ],
                key=str,
            )

    run(scenario())


def test_what_is_in_place_is_looked_at_once_and_nothing_is_said_or_changed(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            before = await connection.fetch("SELECT oid, relname FROM pg_class ORDER BY oid")
            asked: list[str] = []
            with connection.query_logger(lambda query: asked.append(query.query)):
                assert await arranged(connection) == []
                await asyncio.sleep(0)  # it logs one turn later
            assert len(asked) == 1
            assert await connection.fetch("SELECT oid, relname FROM pg_class ORDER BY oid") == before

    run(scenario())


def test_a_relation_of_that_name_that_is_somebody_elses_is_left_alone_and_told(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            await make_plain(connection)
            await connection.execute("DROP VIEW fills_daily")
            await connection.execute("CREATE TABLE fills_daily (mine int)")
            assert any("not vigil's" in sentence for sentence in await arranged(connection))
            assert await connection.fetchval("SELECT count(mine) FROM fills_daily") == 0

    run(scenario())


def test_a_view_of_a_table_that_is_no_longer_fills_is_made_anew(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            await connection.execute("ALTER TABLE fills RENAME TO fills_before")
            await connection.execute("CREATE TABLE fills (LIKE fills_before INCLUDING ALL)")
            await insert(connection, ROWS[:1])
            assert await daily(connection) == []
            await arrange(connection)
            assert len(await daily(connection)) == 1

    run(scenario())


def test_what_was_taken_away_is_not_set_up_again(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            shape = await read_shape(connection)
            if shape.upkeep_job is not None:
                await connection.execute("SELECT delete_job($1)", shape.upkeep_job)
                await connection.execute("DROP MATERIALIZED VIEW fills_daily")
                await connection.execute("ALTER TABLE fills SET (timescaledb.compress = false)")
            else:
                await connection.execute("DROP VIEW fills_daily")
            assert await arranged(connection) == []
            shape = await read_shape(connection)
            assert (shape.daily, shape.columnstore, shape.upkeep_job) == ("none", False, None)

    run(scenario())


# -- what can't be had ------------------------------------------------------------------------------

EVERYTHING = Shape(
    timescaledb=True,
    community=True,
    is_table=True,
    hypertable=True,
    columnstore=True,
    columnstore_policy=None,
    daily="ours",
    daily_aggregate=True,
    upkeep_job=1000,
    arranged=("columnstore", "daily aggregate", "upkeep job"),
)
NOTHING_YET = replace(EVERYTHING, columnstore=False, daily="none", daily_aggregate=False, upkeep_job=None, arranged=())


@pytest.mark.parametrize(
    ("shape", "set_up", "told"),
    [
        (EVERYTHING, [], ""),
        (NOTHING_YET, ["arrange_columnstore", "arrange_daily", "arrange_upkeep"], ""),
        (replace(NOTHING_YET, community=False), ["arrange_daily"], "Apache edition"),
        (replace(NOTHING_YET, hypertable=False), ["arrange_daily"], "plain table beside TimescaleDB"),
        (replace(NOTHING_YET, timescaledb=False, community=False, hypertable=False), ["arrange_daily"], ""),
        (replace(NOTHING_YET, is_table=False, hypertable=False), [], "plain table"),
        (replace(EVERYTHING, daily_aggregate=False, arranged=("daily view",)), ["arrange_daily", "arrange_upkeep"], ""),
        (replace(EVERYTHING, daily="foreign", daily_aggregate=False), [], "not vigil's"),
        (replace(EVERYTHING, community=False, columnstore=False, daily_aggregate=False, upkeep_job=None), [], "Apache"),
    ],
)
def test_each_database_gets_what_it_can_have_and_hears_what_it_can_not(
    shape: Shape, set_up: list[str], told: str
) -> None:
    if "daily view" in shape.arranged:
        shape = replace(shape, upkeep_job=None)
    assert [step.statement for step in missing(shape)] == set_up
    sentences = " ".join(lacking(shape))
    assert told in sentences
    assert bool(told) == bool(sentences)


def test_a_role_that_may_not_set_up_anything_hears_why_and_goes_on(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            await make_plain(connection)
            await connection.execute("DROP VIEW fills_daily; DELETE FROM backfill_arranged")
            await connection.execute("GRANT SELECT ON backfill_arranged TO pg_monitor; SET ROLE pg_monitor")
            (*_, sentence) = await arranged(connection)
            assert "fills_daily can't be made" in sentence
            assert "permission denied" in sentence

    run(scenario())


# -- on TimescaleDB ---------------------------------------------------------------------------------


@pytest.mark.timescaledb
def test_a_plain_view_becomes_an_aggregate_when_the_table_becomes_a_hypertable(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            await make_plain(connection)
            assert any("plain table" in sentence for sentence in await arranged(connection))
            await insert(connection, ROWS)
            was = await daily(connection)
            await connection.execute("GRANT SELECT ON fills_daily TO pg_monitor")
            await connection.execute("SELECT create_hypertable('fills', 'time', migrate_data => true)")
            assert await arranged(connection) == []
            shape = await read_shape(connection)
            assert (shape.daily, shape.daily_aggregate, shape.columnstore) == ("ours", True, True)
            assert await daily(connection) == was
            assert await connection.fetchval("SELECT has_table_privilege('pg_monitor', 'fills_daily', 'SELECT')")

    run(scenario())


@pytest.mark.timescaledb
def test_a_view_that_others_build_upon_stays_and_that_is_told(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            await make_plain(connection)
            await connection.execute("CREATE VIEW monthly AS SELECT sum(volume) FROM fills_daily")
            await connection.execute("SELECT create_hypertable('fills', 'time', migrate_data => true)")
            (sentence,) = await arranged(connection)
            assert "stays a plain view" in sentence
            assert "depend" in sentence
            assert await connection.fetchval("SELECT * FROM monthly") is None

    run(scenario())


@pytest.mark.timescaledb
def test_settings_and_policies_that_are_there_stay_as_they_are(migrated_url: str) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:
            await make_plain(connection)
            await connection.execute(
                "SELECT create_hypertable('fills', 'time', chunk_time_interval => interval '3 days');"
                "ALTER TABLE fills SET (timescaledb.compress, timescaledb.compress_segmentby = 'coin');"
                "SELECT add_compression_policy('fills', interval '40 days')"
            )
            await connection.execute("DELETE FROM backfill_arranged")
            assert await arranged(connection) == []
            settings = await connection.fetchval(
                "SELECT segmentby FROM timescaledb_information.hypertable_compression_settings"
                " WHERE hypertable = 'fills'::regclass"
            )
            assert settings == "coin"
            interval = "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'fills'"
            assert await connection.fetchval(interval) == timedelta(days=3)
            assert (await read_shape(connection)).columnstore_policy is not None

    run(scenario())
