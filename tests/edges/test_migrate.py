"""Migrations against a real server: applied once, recorded, refused when they can't be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.kit.loop import run
from vigil.errors import EXIT_USAGE, SchemaMismatch, StoreError, StoreUnavailable
from vigil.migrate import has_timescaledb, migrate, migrations, pending

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

T = TypeVar("T")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "001_first.sql").write_text(
        "CREATE TABLE first (a int);\n-- a comment\nINSERT INTO first VALUES (1);\n"
    )
    (tmp_path / "002_second.sql").write_text("CREATE TABLE second (a int);\n")
    return tmp_path


def on(url: str, use: Callable[[Connection], Awaitable[T]]) -> T:
    async def connected() -> T:
        connection = await asyncpg.connect(url)
        try:
            return await use(connection)
        finally:
            await connection.close()

    return run(connected())


def test_missing_migrations_are_applied_in_order_and_only_once(database_url: str, directory: Path) -> None:
    assert [m.name for m in on(database_url, lambda c: migrate(c, directory))] == ["first", "second"]
    assert on(database_url, lambda c: migrate(c, directory)) == []
    (directory / "003_third.sql").write_text("CREATE TABLE third (a int)")
    assert [m.version for m in on(database_url, lambda c: migrate(c, directory))] == [3]
    assert on(database_url, lambda c: c.fetchval("SELECT count(*) FROM first")) == 1
    recorded = on(database_url, lambda c: c.fetch("SELECT version, name FROM vigil_migrations ORDER BY 1"))
    assert [tuple(row) for row in recorded] == [(1, "first"), (2, "second"), (3, "third")]


def test_pending_tells_what_is_missing_and_changes_nothing(database_url: str, directory: Path) -> None:
    assert [m.version for m in on(database_url, lambda c: pending(c, directory))] == [1, 2]
    assert on(database_url, lambda c: c.fetchval("SELECT to_regclass('vigil_migrations')")) is None
    on(database_url, lambda c: migrate(c, directory))
    assert on(database_url, lambda c: pending(c, directory)) == []


def test_a_failing_migration_leaves_nothing_of_itself_and_keeps_those_before(
    database_url: str, directory: Path
) -> None:
    (directory / "002_second.sql").write_text("CREATE TABLE half (a int); SELECT 1 / 0;")
    with pytest.raises(StoreError, match=r"Migration 2 \(second\) failed: division by zero") as caught:
        on(database_url, lambda c: migrate(c, directory))
    assert not isinstance(caught.value, SchemaMismatch)
    assert on(database_url, lambda c: c.fetchval("SELECT to_regclass('half')")) is None
    assert [m.version for m in on(database_url, lambda c: pending(c, directory))] == [2]


def test_an_applied_file_that_changed_is_refused(database_url: str, directory: Path) -> None:
    on(database_url, lambda c: migrate(c, directory))
    (directory / "001_first.sql").write_text("CREATE TABLE first (a bigint)")
    (directory / "003_third.sql").write_text("CREATE TABLE third (a int)")
    for use in (migrate, pending):
        with pytest.raises(SchemaMismatch, match=r"Migration 1 \(first\) is not the file") as caught:
            on(database_url, lambda c, use=use: use(c, directory))  # type: ignore[misc]
        assert caught.value.hint
        assert caught.value.exit_code == EXIT_USAGE
    assert on(database_url, lambda c: c.fetchval("SELECT to_regclass('third')")) is None


def test_line_endings_do_not_change_a_checksum(database_url: str, directory: Path) -> None:
    on(database_url, lambda c: migrate(c, directory))
    path = directory / "001_first.sql"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert on(database_url, lambda c: migrate(c, directory)) == []


def test_a_database_newer_than_the_code_is_refused(database_url: str, directory: Path) -> None:
    on(database_url, lambda c: migrate(c, directory))
    (directory / "002_second.sql").unlink()
    with pytest.raises(SchemaMismatch, match=r"has migration 2 \(second\).*its newest is 1") as caught:
        on(database_url, lambda c: migrate(c, directory))
    assert "Upgrade" in caught.value.hint


@pytest.mark.parametrize("name", ["1_short.sql", "x.sql", "001_second_one.sql"])
def test_a_file_with_a_wrong_or_repeated_number_is_refused(directory: Path, name: str) -> None:
    (directory / name).write_text("SELECT 1")
    with pytest.raises(SchemaMismatch):
        migrations(directory)


def test_two_migrating_at_once_both_succeed_and_apply_each_file_once(database_url: str, directory: Path) -> None:
    # Slow enough that the others surely arrive while the first one is at it.
    (directory / "001_first.sql").write_text("SELECT pg_sleep(0.3); CREATE TABLE first (a int);")

    async def at_once() -> list[list[int]]:
        async def one() -> list[int]:
            connection = await asyncpg.connect(database_url)
            try:
                return [m.version for m in await migrate(connection, directory)]
            finally:
                await connection.close()

        return await asyncio.gather(*(one() for _ in range(3)))

    assert sorted(run(at_once())) == [[], [], [1, 2]]


def test_a_role_without_create_gets_one_sentence_and_exit_code_2(database_url: str, directory: Path) -> None:
    async def as_stranger(connection: Connection) -> None:
        await connection.execute("SET ROLE pg_monitor")  # exists everywhere, and may create nothing
        await migrate(connection, directory)

    with pytest.raises(SchemaMismatch, match="lacks a right") as caught:
        on(database_url, as_stranger)
    assert caught.value.exit_code == EXIT_USAGE
    assert "GRANT CREATE" in caught.value.hint


def test_a_connection_lost_in_a_migration_is_told_as_such_and_nothing_is_left(
    database_url: str, directory: Path
) -> None:
    (directory / "002_second.sql").write_text(
        "CREATE TABLE second (a int); SELECT pg_terminate_backend(pg_backend_pid());"
    )
    with pytest.raises(StoreUnavailable):
        on(database_url, lambda c: migrate(c, directory))
    assert on(database_url, lambda c: c.fetchval("SELECT to_regclass('second')")) is None
    # The dead session's lock is free, or this would wait for ever.
    (directory / "002_second.sql").write_text("CREATE TABLE second (a int)")
    assert [m.version for m in on(database_url, lambda c: migrate(c, directory))] == [2]


def test_whether_timescaledb_is_in_use_is_told(database_url: str, directory: Path) -> None:
    notices: list[str] = []
    on(database_url, lambda c: migrate(c, directory, notice=notices.append))
    in_use = on(database_url, has_timescaledb)
    assert bool(notices) is not in_use
    assert all("plain Postgres" in notice for notice in notices)


@pytest.mark.timescaledb
def test_migrating_takes_timescaledb_into_use_where_it_is_offered(database_url: str, directory: Path) -> None:
    on(database_url, lambda c: migrate(c, directory))
    assert on(database_url, has_timescaledb)


@pytest.mark.timescaledb
def test_a_role_that_may_not_create_extensions_migrates_without_timescaledb(database_url: str, directory: Path) -> None:
    async def as_stranger(connection: Connection) -> list[str]:
        notices: list[str] = []
        await connection.execute("CREATE SCHEMA plain; GRANT ALL ON SCHEMA plain TO pg_monitor")
        await connection.execute("SET search_path = plain; SET ROLE pg_monitor")
        await migrate(connection, directory, notice=notices.append)
        return notices

    assert "may not run CREATE EXTENSION" in on(database_url, as_stranger)[0]


def test_the_projects_own_migrations_apply(migrated_url: str) -> None:
    assert migrations()
    assert on(migrated_url, pending) == []


def test_two_databases_of_one_run_do_not_see_each_other(database_url: str, migrated_url: str) -> None:
    assert urlunsplit(urlsplit(database_url)._replace(path="")) == urlunsplit(urlsplit(migrated_url)._replace(path=""))
    assert on(database_url, lambda c: c.fetchval("SELECT to_regclass('vigil_migrations')")) is None
