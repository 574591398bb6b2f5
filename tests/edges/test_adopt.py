"""Adopting `fills` tables of others, on a real server: nothing lost, nothing twice, whatever they look like."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.kit.backfill import WINDOW, ask, backfill, settings_for, small, tell, until
from tests.kit.command import environment, finish, start, vigil
from tests.kit.factories import Row, body_of, wire_row, wire_row_2023
from tests.kit.foreign import (
    ALL_TEXT,
    BIGINT_TIME,
    C_COLLATED,
    CAMEL,
    NORMAL,
    PLANNED,
    RENAMED,
    SHAPES,
    TIME,
    UNIQUE_TID,
    USERS,
    Foreign,
    columns,
    expected,
    held,
    trades,
)
from tests.kit.loop import run
from vigil.adopt import OLD_TABLE, Way, adopt, describe, job, preview
from vigil.adopt.intake import Intake
from vigil.db import session
from vigil.errors import SchemaMismatch, StoreError, UsageError, VigilError
from vigil.fills import decode_page
from vigil.migrate import migrations
from vigil.pipeline import Run, prepare_database
from vigil.rehearsal import compare
from vigil.simulator import Simulator
from vigil.simulator.truth import open_truth

EVERYTHING = """
SELECT md5(string_agg(line, E'\n' ORDER BY line)) FROM (
    SELECT c.oid::text || c.relname || c.relkind::text || c.relnatts || pg_relation_filenode(c.oid) AS line
    FROM pg_class AS c
    WHERE c.relkind IN ('r', 'i', 'v', 'p', 'S') AND c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT attrelid::text || attname || atttypid || attnotnull || attcollation FROM pg_attribute
    WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    UNION ALL SELECT extname FROM pg_extension
    UNION ALL SELECT fills::text FROM fills
) AS lines
"""
IN_PLACE = Foreign("in place", columns({}, {"user": "user"}, **NORMAL), way="in_place")


async def rejected(url: str) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT user_address, reason FROM rejected_fills")
        return sorted((row["user_address"], row["reason"]) for row in rows)
    finally:
        await connection.close()


@pytest.mark.parametrize("foreign", SHAPES, ids=lambda foreign: foreign.name.replace(" ", "_"))
def test_the_same_rows_in_any_shape_become_the_same_fills(database_url: str, foreign: Foreign) -> None:
    async def scenario() -> None:
        rows = trades(16)
        await foreign.create(database_url, rows)
        result = await adopt(database_url, foreign.setting, step_blocks=1)
        assert result.way == foreign.way
        assert await held(database_url) == expected(rows)
        assert await rejected(database_url) == []
        assert await prepare_database(database_url) == []
        assert (await adopt(database_url)).way is Way.RIGHT
        assert await ask(database_url, "SELECT to_regclass('vigil_adoption')") is None

    run(scenario())


def test_the_table_of_the_original_plan_is_completed_by_a_run(database_url: str) -> None:
    """Loaded by the plan's own rules: bigint time, and a unique index on tid that dropped one side of each trade."""

    async def scenario() -> None:
        async with Simulator(small(12, 41)) as exchange:
            async with open_truth(exchange.url) as truth:
                users = [address async for address in truth.addresses()]
                rows: list[Row] = []
                for user in users[:9]:
                    served = await truth.rows(user, WINDOW.start_ms, WINDOW.end_ms - 1, slices=False)
                    rows += [{**row, "user": user} for row in served]
            await PLANNED.create(database_url, rows)
            await tell(
                database_url,
                "CREATE TABLE backfill_progress (user_address TEXT PRIMARY KEY, started_at TIMESTAMPTZ,"
                " completed_at TIMESTAMPTZ, completed BOOLEAN DEFAULT false, fills_count INT DEFAULT 0,"
                " oldest_fill_time BIGINT)",
            )
            kept = await ask(database_url, "SELECT count(*) FROM fills")
            seen = await preview(database_url)
            assert "a unique index on tid alone" in "\n".join(describe(seen))
            result = await adopt(database_url)
            assert result.way is Way.COPY
            assert result.counts is not None
            assert (result.counts.received, result.counts.inserted, result.counts.rejected) == (kept, kept, 0)
            found = Run(settings_for(exchange), database_url, WINDOW)  # which discovers the users by itself
            tally = await found.execute()
            assert tally.users_done == await ask(database_url, "SELECT count(DISTINCT user_address) FROM fills")
            await backfill(exchange, database_url)
            truth_now = await compare(database_url, exchange.url, WINDOW)
            assert (truth_now.missing, truth_now.extra, truth_now.rows) == (0, 0, truth_now.rows), truth_now.examples
            assert truth_now.rows > kept
            assert await ask(database_url, "SELECT count(block_time) FROM fills") == kept

    run(scenario())


# -- rows that need a look -------------------------------------------------------------------------


def test_a_row_without_a_tid_gets_the_one_it_has_from_the_exchange(database_url: str, real_fills: Path) -> None:
    async def scenario() -> None:
        rows = json.loads((real_fills / "user_fills_2023.json").read_text())[::-1]
        page = decode_page(body_of(rows))
        await without_tid(ALL_TEXT).create(database_url, [{**row, "user": USERS[0]} for row in rows])
        result = await adopt(database_url, step_blocks=1)
        assert result.counts is not None
        assert result.counts.received == len(rows)
        connection = await asyncpg.connect(database_url)
        try:
            tids = {row["tid"] for row in await connection.fetch("SELECT tid FROM fills")}
        finally:
            await connection.close()
        assert tids == {fill.tid for fill in page}

    run(scenario())


def without_tid(foreign: Foreign) -> Foreign:
    return Foreign(foreign.name, [one for one in foreign.columns if one[0] != "tid"], setting=foreign.setting)


def test_in_place_odd_rows_are_mended_or_kept_with_the_reason(database_url: str) -> None:
    async def scenario() -> None:
        good = trades(20)
        untold = [wire_row_2023(TIME + 5, user=USERS[0]), wire_row_2023(TIME + 6, user=USERS[1])]
        mixed = wire_row(TIME + 7, 77, user=USERS[3])
        broken = [wire_row(TIME + 8, 78, user=USERS[0]) | {"oid": None}, wire_row(TIME + 9, 79, user="0x12")]
        silent = wire_row(TIME + 10, 80, user=USERS[0]) | {"fee": None, "dir": None}
        written = [*good, *untold, mixed | {"user": USERS[3].upper().replace("0X", "0x")}, *broken, silent]
        await IN_PLACE.create(database_url, written)
        result = await adopt(database_url, step_blocks=1)
        assert result.way is Way.IN_PLACE
        tids = [fill.tid for fill in decode_page(body_of([{**row} for row in untold]))]
        told = [row | {"tid": tid} for row, tid in zip(untold, tids, strict=True)]
        assert await held(database_url) == expected([*good, *told, mixed, silent])
        assert await rejected(database_url) == [
            (USERS[0], "it has no oid"),
            ("0x12", "its user_address '0x12' can't be user_address"),
        ]

    run(scenario())


@pytest.mark.parametrize("foreign", [IN_PLACE, BIGINT_TIME], ids=["in place", "copy"])
def test_of_two_rows_with_one_key_none_is_dropped_unless_they_agree(database_url: str, foreign: Foreign) -> None:
    async def scenario() -> None:
        first = wire_row(TIME, 1, user=USERS[0], cloid="0x" + "1" * 32) | {"feeToken": None}
        agreeing = {**first}
        knowing = first | {"cloid": None, "feeToken": "USDC"}
        contradicting = first | {"px": "1.5"}
        rows = [first, agreeing, knowing, contradicting, *trades(3)]
        await foreign.create(database_url, rows)
        result = await adopt(database_url)
        assert await held(database_url) == expected([first | {"feeToken": "USDC"}, *trades(3)])
        assert await rejected(database_url) == [(USERS[0], "another row of the table has its key and differs")]
        assert '"px":1.5' in (await ask(database_url, "SELECT replace(raw, ' ', '') FROM rejected_fills"))
        assert result.counts is not None
        assert (result.counts.already_there, result.counts.rejected) == (2, 1)

    run(scenario())


def test_columns_of_any_name_and_type_are_no_hindrance_to_rows_that_are_there_twice(database_url: str) -> None:
    async def scenario() -> None:
        strange = [
            ("", "raw", "json DEFAULT '{\"a\":  1}'"),
            ("", "fits", "point DEFAULT '(1,2)'"),
            ("", "rows", "json[]"),
        ]
        foreign = Foreign("", [*columns({}, {}, **NORMAL), *strange])
        rows = trades(3)
        await foreign.create(database_url, [*rows, rows[0]])
        result = await adopt(database_url)
        assert result.way is Way.IN_PLACE
        assert result.counts is not None
        assert (result.counts.already_there, result.counts.rejected) == (1, 0)
        assert await held(database_url) == expected(rows)

    run(scenario())


def test_an_empty_table_is_adopted_whatever_indexes_it_has(database_url: str) -> None:
    async def scenario() -> None:
        await Foreign("", [*columns({}, {}, **NORMAL), ("", "id", "bigserial PRIMARY KEY")]).create(database_url, [])
        assert (await adopt(database_url)).way is Way.IN_PLACE
        assert await prepare_database(database_url) == []
        assert (await adopt(database_url)).way is Way.RIGHT

    run(scenario())


def test_a_table_that_nobody_has_analysed_is_not_taken_for_empty(database_url: str) -> None:
    async def scenario() -> None:
        await UNIQUE_TID.create(database_url, trades(20))
        assert "  about 40 rows, 0 MB" in describe(await preview(database_url))

    run(scenario())


@pytest.mark.parametrize(
    "unfit",
    [
        "UNIQUE (user_address, time, coin, oid, tid, side) DEFERRABLE",
        "UNIQUE (user_address, time, coin, oid, tid) INCLUDE (side)",
    ],
)
def test_an_index_by_which_no_conflict_can_be_resolved_is_no_key(database_url: str, unfit: str) -> None:
    async def scenario() -> None:
        await Foreign("", columns(C_COLLATED, {}, **NORMAL), constraints=unfit).create(database_url, [])
        assert (await adopt(database_url)).way is Way.IN_PLACE
        assert await ask(database_url, "SELECT to_regclass('fills_key') IS NOT NULL")
        await tell(database_url, f"DROP INDEX fills_key; ALTER TABLE fills ADD {unfit}")
        with pytest.raises(SchemaMismatch, match="no unique index on"):
            await prepare_database(database_url)

    run(scenario())


def test_a_copy_keeps_what_it_does_not_know_in_extra(database_url: str) -> None:
    async def scenario() -> None:
        foreign = Foreign("", [*BIGINT_TIME.columns, ("builder", "builder", "text"), ("", "id", "bigserial")])
        await foreign.create(
            database_url, [wire_row(TIME, 1, user=USERS[0], builder="0xb"), wire_row(TIME, 2, user=USERS[0])]
        )
        await adopt(database_url)
        extras = await ask(database_url, "SELECT array_agg(extra::text ORDER BY tid) FROM fills")
        assert extras == ['{"builder": "0xb"}', None]

    run(scenario())


@pytest.mark.parametrize("foreign", [IN_PLACE, ALL_TEXT], ids=["in place", "copy"])
def test_a_row_that_no_index_takes_is_told_and_kept(database_url: str, foreign: Foreign) -> None:
    async def scenario() -> None:
        endless = wire_row(TIME, 1, user=USERS[0], coin="".join(f"{n:x}" for n in range(40_000)))
        await foreign.create(database_url, [*trades(5), endless])
        result = await adopt(database_url)
        assert result.way == foreign.way
        assert await held(database_url) == expected(trades(5))
        ((user, reason),) = await rejected(database_url)
        assert user == USERS[0]
        assert "the database refused it" in reason

    run(scenario())


def test_foreign_keys_that_would_refuse_users_go_and_checks_stay(database_url: str) -> None:
    async def scenario() -> None:
        known = ["CREATE TABLE people (address text PRIMARY KEY)", f"INSERT INTO people VALUES ('{USERS[0]}')"]
        constraints = 'FOREIGN KEY ("user") REFERENCES people, CHECK (sz >= 0)'
        foreign = Foreign("", IN_PLACE.columns, constraints=constraints, before=known)
        await foreign.create(database_url, [row for row in trades(4) if row["user"] == USERS[0]])
        seen = describe(await preview(database_url))
        assert any("a fill that they refuse goes to rejected_fills" in line for line in seen)
        await adopt(database_url)
        left = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'fills'::regclass AND contype = $1"
        assert await ask(database_url, left, b"f") == 0
        assert await ask(database_url, left, b"c") == 1

    run(scenario())


# -- killed ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The client is no more, in the middle of its work."""


class Mortal:
    """A connection that is cut at its `life`-th statement."""

    def __init__(self, connection: Any, life: int) -> None:
        self._connection, self.life = connection, life

    def __getattr__(self, name: str) -> Any:
        if name in ("execute", "fetch", "fetchval", "fetchrow"):
            self.life -= 1
            if self.life < 0:
                self._connection.terminate()
                raise Killed
        return getattr(self._connection, name)


DIRTY = [
    *trades(12),
    trades(1)[0],
    wire_row_2023(TIME + 5, user=USERS[0]),
    wire_row(TIME + 7, 77, user=USERS[3].upper().replace("0X", "0x")),
    wire_row(TIME + 8, 78, user=USERS[0]) | {"oid": None},
]


@pytest.mark.parametrize("foreign", [IN_PLACE, BIGINT_TIME], ids=["in place", "copy"])
def test_killed_at_any_statement_an_adoption_goes_on_and_loses_nothing(
    database_url: str, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await foreign.create(database_url, DIRTY)
        real, life, deaths = session, 20, 0

        @asynccontextmanager
        async def mortal(dsn: str) -> AsyncIterator[Any]:
            async with real(dsn) as connection:
                yield Mortal(connection, life)

        monkeypatch.setattr(job, "session", mortal)
        while True:
            try:
                await adopt(database_url, step_blocks=1)
                break
            except (Killed, VigilError, asyncpg.InterfaceError):
                deaths += 1
                life += 4  # enough of these, and each stage has been cut somewhere
                if await ask(database_url, "SELECT to_regclass('vigil_adoption') IS NOT NULL"):
                    with pytest.raises(SchemaMismatch, match="was begun and is not over"):
                        await prepare_database(database_url)
        assert deaths >= 8
        mended = [row | {"user": row["user"].lower()} for row in [*trades(12), DIRTY[-2]]]
        untold = DIRTY[-3] | {"tid": decode_page(body_of([DIRTY[-3]]))[0].tid}
        assert await held(database_url) == expected([*mended, untold])
        assert await rejected(database_url) == [(USERS[0], "it has no oid")]

    run(scenario())


def test_a_killed_command_is_run_again_and_ends_well(database_url: str) -> None:
    async def scenario() -> None:
        await BIGINT_TIME.create(database_url, trades(1500))
        env = environment(database_url)
        process = await start("migrate", "--adopt", env=env)
        await until(
            database_url,
            "SELECT to_regclass('vigil_adoption') IS NOT NULL OR to_regclass('rejected_fills') IS NOT NULL",
        )
        process.send_signal(signal.SIGKILL)
        await finish(process)
        outcome = await vigil("migrate", "--adopt", env=env)
        assert outcome.code == 0, outcome.err
        assert await held(database_url) == expected(trades(1500))
        assert (await adopt(database_url)).way is Way.RIGHT

    run(scenario())


def test_an_old_table_that_changed_while_it_was_copied_is_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await BIGINT_TIME.create(database_url, trades(3))
        real = Intake.put_back

        async def meddling(*arguments: Any) -> Any:
            await tell(database_url, f"DELETE FROM {OLD_TABLE} WHERE tid = 1000")
            return await real(*arguments)

        monkeypatch.setattr(Intake, "put_back", meddling)
        with pytest.raises(StoreError, match="has 4 rows, but"):
            await adopt(database_url)

    run(scenario())


# -- looking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", [BIGINT_TIME, ALL_TEXT, UNIQUE_TID], ids=["bigint time", "text", "in place"])
def test_looking_changes_nothing(database_url: str, foreign: Foreign) -> None:
    async def scenario() -> None:
        await foreign.create(database_url, trades(5))
        before = await ask(database_url, EVERYTHING)
        seen = await preview(database_url, foreign.setting)
        assert seen.plan is not None
        assert (seen.plan.way, seen.plan.facts.rows) == (foreign.way, 10)
        assert len(describe(seen)) > 20
        assert await ask(database_url, EVERYTHING) == before

    run(scenario())


def test_a_dry_run_tells_the_plan_and_changes_nothing(database_url: str) -> None:
    async def scenario() -> None:
        await RENAMED.create(database_url, trades(20))
        before = await ask(database_url, EVERYTHING)
        outcome = await vigil("migrate", "--adopt", "--dry-run", env=environment(database_url))
        assert outcome.code == 0, outcome.err
        assert "user_address is their user" in outcome.out
        assert "would apply 001 fills" in outcome.out
        refused = await vigil("migrate", "--dry-run", env=environment(database_url))
        assert refused.code == 2
        assert "migrate --adopt --dry-run" in refused.err
        assert await ask(database_url, EVERYTHING) == before

    run(scenario())


def test_a_dry_run_without_a_table_tells_the_migrations(database_url: str) -> None:
    async def scenario() -> None:
        assert describe(await preview(database_url)) == ["There is no table `fills`: the migrations make it."]
        assert "would apply 001 fills" in (await vigil("migrate", "--dry-run", env=environment(database_url))).out
        assert await ask(database_url, "SELECT to_regclass('vigil_migrations')") is None
        assert (await adopt(database_url)).applied[0].name == "fills"
        assert "nothing to adopt" in describe(await preview(database_url))[0]

    run(scenario())


def test_the_mapping_of_the_settings_is_used_and_checked(database_url: str) -> None:
    async def scenario() -> None:
        foreign = Foreign("", columns({}, CAMEL | {"user": "owner", "sz": "amount"}, **NORMAL))
        await foreign.create(database_url, trades(2))
        with pytest.raises(SchemaMismatch, match="it has no user_address, sz"):
            await adopt(database_url)
        with pytest.raises(UsageError, match="no column 'ownr'"):
            await adopt(database_url, "user_address=ownr,sz=amount")
        env = environment(database_url, VIGIL_FILLS_COLUMNS="user_address=owner,sz=amount")
        outcome = await vigil("migrate", "--adopt", env=env)
        assert outcome.code == 0, outcome.err
        assert "adopted in place" in outcome.out
        assert await held(database_url) == expected(trades(2))

    run(scenario())


VALUES = "user_address text, coin text, side text, px numeric, sz numeric, oid bigint, tid bigint"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (["CREATE VIEW fills AS SELECT 1 AS a"], "it is a view, not a table"),
        (["CREATE TABLE fills (id int, name text)"], "it has no user_address, time, coin, side, px, sz, oid"),
        ([f"CREATE TABLE fills (time date, {VALUES})"], "time is of type date, which can't become timestamp"),
        (
            [
                f"CREATE TABLE fills (time bigint, {VALUES})",
                "INSERT INTO fills SELECT 1735700000 + n FROM generate_series(1, 9) n",
            ],
            "time is seconds",
        ),
        (
            [
                f"CREATE TABLE fills (time bigint, {VALUES})",
                "INSERT INTO fills SELECT 1735700000000 * power(1000, n % 2)::bigint FROM generate_series(1, 9) n",
            ],
            "time is of no clear unit",
        ),
        (
            [
                f"CREATE TABLE fills (time timestamptz, {VALUES})",
                "INSERT INTO fills SELECT timestamptz '2025-01-01' + n * interval '1 s',"
                f" '{USERS[0]}', 'BTC', 'B', 1, 1, n, n FROM generate_series(1, 60) n",
            ],
            "whole seconds",
        ),
        (
            [
                f"CREATE TABLE fills (time timestamptz, {VALUES})",
                "INSERT INTO fills SELECT now(), 'nobody', 'BTC', 'B', 1, 1, n, n FROM generate_series(1, 9) n",
            ],
            "most of its rows can't be fills",
        ),
        (
            [f"CREATE TABLE fills (time timestamptz, wallet text, account text, {VALUES[18:]})"],
            "could both be user_address",
        ),
        (
            [
                f"CREATE TABLE fills (time timestamptz, {VALUES}, UNIQUE (tid))",
                "CREATE TABLE notes (tid bigint REFERENCES fills (tid))",
            ],
            "notes refers to it",
        ),
        (
            [f"CREATE TABLE fills (time timestamptz, {VALUES})", "CREATE VIEW mine AS SELECT coin FROM fills"],
            "forbid: mine",
        ),
        (
            [f"CREATE TABLE fills (time timestamptz, {VALUES})", "ALTER TABLE fills ENABLE ROW LEVEL SECURITY"],
            "row level",
        ),
        (["CREATE TABLE old (time timestamptz)", f"CREATE TABLE fills ({VALUES}) INHERITS (old)"], "it inherits"),
        ([f"CREATE UNLOGGED TABLE fills (time timestamptz, {VALUES})"], "it is unlogged"),
    ],
    ids=lambda value: value.replace(" ", "_")[:40] if isinstance(value, str) else "",
)
def test_what_can_not_be_adopted_is_refused_with_one_sentence_and_stays(
    database_url: str, made: Sequence[str], said: str
) -> None:
    async def scenario() -> None:
        for statement in made:
            await tell(database_url, statement)
        before = await ask(database_url, EVERYTHING)
        for attempt in (preview, adopt):
            with pytest.raises((SchemaMismatch, UsageError)) as caught:
                await attempt(database_url)
            assert said in str(caught.value)
        assert await ask(database_url, EVERYTHING) == before

    run(scenario())


def test_a_role_that_does_not_own_the_table_is_told_so(database_url: str) -> None:
    async def scenario() -> None:
        await IN_PLACE.create(database_url, trades(1))
        name = await ask(database_url, "SELECT current_database()")
        await tell(database_url, f"GRANT ALL ON fills TO pg_monitor; ALTER DATABASE {name} SET role = 'pg_monitor'")
        with pytest.raises(UsageError, match="does not own it"):
            await adopt(database_url)

    run(scenario())


def test_a_second_adoption_at_the_same_time_and_live_workers_are_refused(migrated_url: str) -> None:
    async def scenario() -> None:
        other = await asyncpg.connect(migrated_url)
        try:
            async with other.transaction():
                await other.execute("SELECT pg_advisory_xact_lock($1)", job._LOCK_KEY)
                with pytest.raises(UsageError, match="Another adoption"):
                    await adopt(migrated_url)
            await other.execute(
                "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at)"
                " VALUES (1, 'a', 1, now() + interval '1 h')"
            )
            with pytest.raises(UsageError, match="1 workers of vigil are at work"):
                await adopt(migrated_url)
        finally:
            await other.close()

    run(scenario())


def test_a_unique_index_that_would_refuse_fills_is_told_and_dropped(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, "CREATE UNIQUE INDEX one_tid ON fills (tid, time)")
        with pytest.raises(SchemaMismatch, match="its unique index one_tid would refuse fills"):
            await prepare_database(migrated_url)
        assert (await adopt(migrated_url)).way is Way.IN_PLACE
        assert await prepare_database(migrated_url) == []
        assert await ask(migrated_url, "SELECT to_regclass('one_tid')") is None

    run(scenario())


def test_a_key_that_no_index_of_ours_could_serve_is_told_and_declared_anew(database_url: str) -> None:
    async def scenario() -> None:
        ours = migrations()[0].sql.split("-- Rows of an answer")[0]
        await tell(database_url, ours.replace('COLLATE "C"', 'COLLATE "POSIX"'))
        with pytest.raises(SchemaMismatch, match="without COLLATE"):
            await prepare_database(database_url)
        assert (await adopt(database_url)).way is Way.IN_PLACE
        assert await prepare_database(database_url) == []

    run(scenario())


def test_a_copy_in_a_database_whose_migrations_are_applied_makes_the_table_anew(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, "DROP TABLE fills CASCADE")
        await BIGINT_TIME.create(migrated_url, trades(4))
        assert (await adopt(migrated_url)).way is Way.COPY
        assert await held(migrated_url) == expected(trades(4))
        assert await prepare_database(migrated_url) == []

    run(scenario())


def test_views_live_on_where_names_alone_change(database_url: str) -> None:
    async def scenario() -> None:
        collated = {"user": 'text COLLATE "C"', "coin": 'text COLLATE "C"', "side": 'text COLLATE "C"'}
        foreign = Foreign(
            "", columns(collated, CAMEL, **NORMAL), after=['CREATE VIEW mine AS SELECT "feeToken" FROM fills']
        )
        await foreign.create(database_url, trades(2))
        assert (await adopt(database_url)).way is Way.IN_PLACE
        assert await ask(database_url, 'SELECT count("feeToken") FROM mine') == 4

    run(scenario())


def test_the_dropped_side_of_a_trade_can_be_added_after_the_adoption(database_url: str) -> None:
    async def scenario() -> None:
        foreign = Foreign("", UNIQUE_TID.columns, constraints="UNIQUE (tid)")
        await foreign.create(database_url, trades(10))
        assert await ask(database_url, "SELECT count(*) FROM fills") == 10
        assert (await adopt(database_url)).way is Way.IN_PLACE
        connection = await asyncpg.connect(database_url)
        try:
            await IN_PLACE_AGAIN.insert(connection, trades(10))
        finally:
            await connection.close()
        assert await held(database_url) == expected(trades(10))

    run(scenario())


IN_PLACE_AGAIN = Foreign("", columns({}, {}, **NORMAL))


# -- TimescaleDB -----------------------------------------------------------------------------------


def a_hypertable(column: str = "time", interval: str = "INTERVAL '9 days'", *more: str) -> list[str]:
    return [f"SELECT create_hypertable('fills', '{column}', chunk_time_interval => {interval})", *more]


EXTENSION = ("CREATE EXTENSION IF NOT EXISTS timescaledb",)
PACK = (
    "ALTER TABLE fills SET (timescaledb.compress, timescaledb.compress_segmentby = 'user_address',"
    " timescaledb.compress_orderby = 'time, tid')"
)
INTERVAL = "SELECT time_interval::text FROM timescaledb_information.dimensions WHERE hypertable_name = 'fills'"
BY_TIME = Foreign("", columns({}, CAMEL, **NORMAL), before=EXTENSION, after=a_hypertable(), way="in_place")
BY_NUMBER = Foreign("", BIGINT_TIME.columns, before=EXTENSION, after=a_hypertable("time", "864000000"))
BY_BLOCK = Foreign(
    "",
    [*columns({}, {}, **NORMAL), ("block_time", "block_time", "timestamptz")],
    before=EXTENSION,
    after=a_hypertable("block_time"),
)
COLLATED = Foreign("", columns(C_COLLATED, {}, **NORMAL), before=EXTENSION, after=a_hypertable(), way="in_place")
DEFAULT = Foreign("", columns({}, {}, **NORMAL), before=EXTENSION, after=a_hypertable())


@pytest.mark.timescaledb
@pytest.mark.parametrize("foreign", [BY_TIME, BY_NUMBER, BY_BLOCK], ids=["time", "bigint", "block_time"])
def test_a_hypertable_becomes_one_on_time_and_keeps_its_chunks_if_it_was(database_url: str, foreign: Foreign) -> None:
    async def scenario() -> None:
        await foreign.create(database_url, trades(40))
        assert (await adopt(database_url, step_blocks=1)).way == foreign.way
        assert await held(database_url) == expected(trades(40))
        assert await ask(database_url, INTERVAL) == ("9 days" if foreign is BY_TIME else "30 days")
        assert await prepare_database(database_url) == []
        assert (await adopt(database_url)).way is Way.RIGHT

    run(scenario())


@pytest.mark.timescaledb
@pytest.mark.parametrize("foreign", [COLLATED, DEFAULT], ids=["in place", "copy"])
def test_compressed_chunks_stay_compressed_or_are_read_as_they_are(database_url: str, foreign: Foreign) -> None:
    async def scenario() -> None:
        await foreign.create(database_url, trades(40))
        await tell(database_url, PACK)
        packed = (
            "SELECT count(compress_chunk(c)) FROM show_chunks('fills', older_than => timestamptz '2025-01-15') AS c"
        )
        assert await ask(database_url, packed) > 0
        connection = await asyncpg.connect(database_url)
        try:
            late = wire_row(TIME + 1, 9, user=USERS[0])  # into a compressed chunk, which is partial then
            await foreign.insert(connection, [late])
        finally:
            await connection.close()
        assert (await adopt(database_url, step_blocks=1)).way == foreign.way
        assert await held(database_url) == expected([*trades(40), late])
        assert await prepare_database(database_url) == []
        still = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed AND hypertable_name = $1"
        assert await ask(database_url, still, "fills" if foreign is COLLATED else OLD_TABLE) > 0

    run(scenario())


@pytest.mark.timescaledb
def test_rows_that_are_twice_in_compressed_chunks_are_found_and_copied(database_url: str) -> None:
    async def scenario() -> None:
        await COLLATED.create(database_url, [*trades(40), trades(1)[0], trades(1)[0] | {"px": "7"}])
        await tell(database_url, PACK)
        await tell(database_url, "SELECT compress_chunk(c) FROM show_chunks('fills') AS c")
        result = await adopt(database_url)
        assert result.way is Way.COPY
        assert await held(database_url) == expected(trades(40))
        assert result.counts is not None
        assert (result.counts.already_there, result.counts.rejected) == (1, 1)

    run(scenario())


@pytest.mark.timescaledb
def test_jobs_of_the_old_table_rest_while_it_is_copied(database_url: str) -> None:
    async def scenario() -> None:
        retention = "SELECT add_retention_policy('fills', INTERVAL '1 month')"
        foreign = Foreign("", BY_BLOCK.columns, before=EXTENSION, after=[*BY_BLOCK.after, retention])
        await foreign.create(database_url, trades(4))
        assert (await adopt(database_url)).way is Way.COPY
        jobs = "SELECT bool_or(scheduled) FROM timescaledb_information.jobs WHERE hypertable_name = $1"
        assert await ask(database_url, jobs, OLD_TABLE) is False

    run(scenario())


@pytest.mark.timescaledb
def test_a_plain_table_stays_plain_unless_a_hypertable_is_asked_for(database_url: str) -> None:
    async def scenario() -> None:
        foreign = Foreign("", UNIQUE_TID.columns, constraints="UNIQUE (tid)", before=EXTENSION)
        await foreign.create(database_url, trades(10))
        assert (await adopt(database_url)).way is Way.IN_PLACE
        kept = await held(database_url)
        assert await ask(database_url, INTERVAL) is None
        assert "--hypertable makes it a hypertable" in "\n".join(describe(await preview(database_url)))
        assert (await adopt(database_url, hypertable=True)).way is Way.IN_PLACE
        assert await ask(database_url, INTERVAL) == "30 days"
        assert await held(database_url) == kept
        assert (await adopt(database_url, hypertable=True)).way is Way.RIGHT

    run(scenario())
