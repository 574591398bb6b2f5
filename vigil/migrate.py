"""Apply the numbered SQL files of `migrations/` to a database, each exactly once.

Must not know what the files say: tables and their meaning are the files' own matter.

Theory of operation: one process at a time (a session advisory lock, which Postgres frees even
if the process is killed) applies what is missing, in order, each file in a transaction together with its line in
`vigil_migrations`. Killed at any moment, a file is applied and recorded or neither. A second
process waits for the lock, then finds nothing left to do. Applied files never change: their
checksums are compared each time, with line endings normalised, because a git checkout on
Windows changes those.

A file must not hold BEGIN or COMMIT, nor what can't run inside a transaction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from vigil.errors import SchemaMismatch, StoreError, StoreUnavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Notice = Callable[[str], object]

PLAIN_POSTGRES = "plain Postgres: no hypertable, no columnstore, and fills_daily is added up when asked"

# "vigil" in ASCII: any number will do, as long as every version of this code takes the same.
_LOCK_KEY = 0x766967696C
_FILE_NAME = re.compile(r"(\d{3,})_(\w+)\.sql", re.ASCII)
_SERVER_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
)
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS vigil_migrations (
    version    int PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `001_fills.sql` is version 1, name `fills`."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(directory: Path | None = None) -> list[Migration]:
    """Read the files of `directory` (default: this project's own), lowest version first.

    Raises:
        SchemaMismatch: a file is not named `NNN_name.sql`, or two have the same number.
    """
    directory = directory or _default_directory()
    found: dict[int, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise SchemaMismatch(
                f"The migration file {path} is not named NNN_name.sql.", hint="Rename it, or move it out of there."
            )
        version = int(match[1])
        if version in found:
            raise SchemaMismatch(
                f"Two migration files have the number {version}: {found[version].name} and {match[2]}.",
                hint="Give the newer one the next free number.",
            )
        # read_text() turns CRLF into LF, so the checksum does not depend on the checkout.
        found[version] = Migration(version, match[2], path.read_text("utf-8"))
    return [found[version] for version in sorted(found)]


async def migrate(
    connection: Connection, directory: Path | None = None, *, notice: Notice | None = None
) -> list[Migration]:
    """Apply what is missing and return it. Idempotent; waits while another process does the same.

    Takes TimescaleDB into use first where the server offers it; if that is not possible, `notice`
    is called with one sentence and all goes on without.

    Raises:
        SchemaMismatch: applied files changed, the database is newer than this code, or the role
            may not create tables. Nothing was applied.
        StoreError: a file failed; those before it stay applied.
        StoreUnavailable: the server went away.
    """
    known = migrations(directory)
    async with _translated("The migrations can't be prepared"), alone(connection):
        # Asked before creating our table, so that a role without any right hears about one thing only.
        await _take_timescaledb(connection, notice or (lambda _: None))
        missing = await _missing(connection, known)
        if missing:
            await connection.execute(_CREATE_TABLE)
        for migration in missing:
            await _apply(connection, migration)
    return missing


async def pending(connection: Connection, directory: Path | None = None) -> list[Migration]:
    """What `migrate` would apply now; changes nothing. Raises as `migrate` does."""
    async with _translated("The migrations can't be read"):
        return await _missing(connection, migrations(directory))


async def has_timescaledb(connection: Connection) -> bool:
    """Whether the extension is in use in this database (not merely on offer)."""
    return bool(await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"))


async def attempted(connection: Connection, statement: str, *arguments: object) -> str | None:
    """Run `statement` in a transaction: None when it is done, the server's sentence when it would not."""
    try:
        async with connection.transaction():
            await connection.execute(statement, *arguments)
    except _SERVER_AWAY:
        raise
    except asyncpg.PostgresError as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return None


async def _missing(connection: Connection, known: list[Migration]) -> list[Migration]:
    if await connection.fetchval("SELECT to_regclass('vigil_migrations')") is None:
        return known
    rows = await connection.fetch("SELECT version, name, sha256 FROM vigil_migrations ORDER BY version")
    by_version = {migration.version: migration for migration in known}
    for version, name, sha256 in rows:
        migration = by_version.pop(version, None)
        if migration is None:
            newest = max((migration.version for migration in known), default=0)
            raise SchemaMismatch(
                f"The database has migration {version} ({name}), which this version of vigil does not know: "
                f"its newest is {newest}.",
                hint="Upgrade vigil to the version that last used this database.",
            )
        if migration.sha256 != sha256:
            raise SchemaMismatch(
                f"Migration {version} ({name}) is not the file that was applied to this database.",
                hint="Restore the file as it was and put the change into a new migration.",
            )
    return list(by_version.values())


async def _apply(connection: Connection, migration: Migration) -> None:
    async with _translated(f"Migration {migration.version} ({migration.name}) failed"), connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO vigil_migrations (version, name, sha256) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.sha256,
        )


async def _take_timescaledb(connection: Connection, notice: Notice) -> None:
    if await has_timescaledb(connection):
        return
    if not await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
        notice(PLAIN_POSTGRES)
        return
    # Installed on the machine, but not in shared_preload_libraries: CREATE EXTENSION would not merely
    # fail, it would end the connection. Only the preloaded library defines settings of its own; anybody
    # may see them, unlike shared_preload_libraries itself.
    if not await connection.fetchval("SELECT count(*) FROM pg_settings WHERE name LIKE 'timescaledb.%'"):
        notice(f"{PLAIN_POSTGRES} (TimescaleDB is installed, but not in shared_preload_libraries)")
        return
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except asyncpg.InsufficientPrivilegeError:
        notice(f"{PLAIN_POSTGRES} (this role may not run CREATE EXTENSION timescaledb)")


@asynccontextmanager
async def alone(connection: Connection) -> AsyncIterator[None]:
    """Nobody else changes the schema while the block runs; waits for who does."""
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
    try:
        yield
    finally:
        if not connection.is_closed():  # else the server has freed it with the session
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)


@asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    """Turn asyncpg's errors into ours; the innermost `what` wins, being the most exact."""
    refused = partial(SchemaMismatch, hint="Use a role that owns the schema, or: GRANT CREATE ON SCHEMA public TO it.")
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise refused(f"{what}: the database role lacks a right ({error}).") from error
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
        raise StoreUnavailable(
            f"{what}: the database went away.", hint="Run it again: what was applied stays applied."
        ) from error
    except asyncpg.InterfaceError as error:
        # The line was cut while a transaction was open; asyncpg then complains about its own state.
        raise StoreUnavailable(
            f"{what}: the connection was lost.", hint="Run it again: what was applied stays applied."
        ) from error
    except asyncpg.PostgresError as error:
        raise StoreError(f"{what}: {error}.", hint="Nothing of it was applied.") from error


def _default_directory() -> Path:
    """In a wheel the files lie inside the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    for directory in (package / "_migrations", package.parent / "migrations"):
        if directory.is_dir():
            return directory
    raise SchemaMismatch("The migration files are missing from this installation.", hint="Install vigil again.")
