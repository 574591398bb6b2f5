"""The database server of a test run: which one, why that one, and fresh databases on it.

The order: VIGIL_TEST_DATABASE_URL; the compose file's TimescaleDB if a Docker engine answers; the
embedded Postgres. Only databases with a random name of our own are ever created or dropped.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from tests.kit.loop import run
from vigil.embedded import embedded_postgres
from vigil.hypertable import arrange
from vigil.migrate import migrate

REPOSITORY = Path(__file__).resolve().parents[2]
URL_VARIABLE = "VIGIL_TEST_DATABASE_URL"
DOCKER_SECONDS = 5.0  # an engine that takes longer to say hello is none
COMPOSE_SECONDS = 300.0  # the first time pulls the image
COMPOSE_PROJECT = "vigil-tests"

_NO_CONNECTION = (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Unusable(Exception):
    """A database server that was to be used can't be."""


@dataclass(frozen=True)
class Choice:
    """Which server, decided before any test is collected. `url` None: the embedded one, started when needed."""

    url: str | None
    name: str
    timescaledb: bool
    notes: tuple[str, ...] = ()

    @property
    def header(self) -> list[str]:
        lines = [f"database: {self.name}", *(f"          {note}" for note in self.notes)]
        if self.timescaledb:
            return [*lines, "          TimescaleDB: yes"]
        return [*lines, "          TimescaleDB: no. SKIPPED: every test marked `timescaledb`"]


def choose() -> Choice:
    """Decide, and check that the decision works.

    Raises:
        Unusable: VIGIL_TEST_DATABASE_URL is set, but does not work. Never silently something else then.
    """
    if url := os.environ.get(URL_VARIABLE):
        try:
            version, timescaledb = run(_ask(url))
        except _NO_CONNECTION as error:
            raise Unusable(f"{URL_VARIABLE} names a database that can't be used: {error}") from error
        return Choice(url, f"{_without_password(url)} ({version}), from {URL_VARIABLE}", timescaledb)
    try:
        url = _compose()
        version, timescaledb = run(_ask(url))
    except (Unusable, *_NO_CONNECTION) as error:
        why = f"because {URL_VARIABLE} is not set, and the compose file's database can't be used: {error}"
        return Choice(None, "embedded Postgres, in a temporary directory", timescaledb=False, notes=(why,))
    note = f"left running for the next time; stop it with: cd / && docker compose -p {COMPOSE_PROJECT} down"
    return Choice(url, f"docker compose, {_without_password(url)} ({version})", timescaledb, (note,))


@contextmanager
def serving(choice: Choice) -> Iterator[Server]:
    """The chosen server, up; databases left over are dropped at the end."""
    if choice.url:
        server = Server(choice.url)
        try:
            yield server
        finally:
            server.close()
        return
    # Not pytest's tmp_path, which keeps the last three runs: a cluster is 50 MB.
    with (
        tempfile.TemporaryDirectory(prefix="vigil-tests-") as directory,
        embedded_postgres(Path(directory) / "data") as url,
    ):
        yield Server(url)


class Server:
    """A running server, and databases on it by name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None

    @contextmanager
    def database(self, *, migrated: bool) -> Iterator[str]:
        """The URL of a fresh database, dropped afterwards even if connections are left open."""
        name = _random_name()
        if migrated:
            run(self._create_migrated(name))
        else:
            run(self._create(name))
        try:
            yield _with_database(self.url, name)
        finally:
            run(self._drop(name))

    def close(self) -> None:
        if self._template is not None:
            run(self._drop(self._template))

    async def _create(self, name: str, template: str = "template0") -> None:
        # template0, because TimescaleDB's background workers may be connected to template1.
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")

    async def _create_migrated(self, name: str) -> None:
        if self._template is None:
            self._template = await self._make_template()
        try:
            await self._create(name, self._template)
        except asyncpg.ObjectInUseError:  # a background worker got into the template after all
            await self._create(name)
            await _migrate(_with_database(self.url, name))

    async def _make_template(self) -> str:
        name = _random_name()
        await self._create(name)
        await _migrate(_with_database(self.url, name))
        # Nobody may be connected to a template that is being copied; TimescaleDB's scheduler would be.
        await self._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await self._execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        return name

    async def _drop(self, name: str) -> None:
        await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
        await arrange(connection)
    finally:
        await connection.close()


async def _ask(url: str) -> tuple[str, bool]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        version = await connection.fetchval("SHOW server_version")
        # What `migrate` needs to take it into use: installed here, and preloaded by the server.
        offered = await connection.fetchval(
            "SELECT (SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb') > 0"
            " AND (SELECT count(*) FROM pg_settings WHERE name LIKE 'timescaledb.%') > 0"
        )
        return f"PostgreSQL {version}", bool(offered)
    finally:
        await connection.close()


def _compose() -> str:
    """Bring the compose file's database up and answer its URL. Raises: Unusable, saying why not."""
    try:
        subprocess.run(["docker", "info"], check=True, capture_output=True, timeout=DOCKER_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unusable("no Docker engine answers") from error
    # A project of its own: never the container and the volume in which somebody's fills are.
    up = ["docker", "compose", "--project-name", COMPOSE_PROJECT, "up", "--detach", "--wait", "timescaledb"]
    password = os.environ.get("VIGIL_POSTGRES_PASSWORD") or "vigil"
    # All of the file's variables must have a value, also those of services that are not started.
    given = {**os.environ, "VIGIL_POSTGRES_PASSWORD": password, "VIGIL_GRAFANA_PASSWORD": "unused"}
    try:
        subprocess.run(
            up, cwd=REPOSITORY, env=given, check=True, capture_output=True, text=True, timeout=COMPOSE_SECONDS
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise Unusable(f"`{' '.join(up)}` failed: {last}") from error
    except subprocess.TimeoutExpired as error:
        raise Unusable(f"`{' '.join(up)}` took longer than {COMPOSE_SECONDS:.0f} s") from error
    port = os.environ.get("VIGIL_POSTGRES_PORT") or "5432"
    return f"postgresql://vigil:{quote(password, safe='')}@127.0.0.1:{port}/vigil"


def _random_name() -> str:
    return f"vigil_test_{secrets.token_hex(8)}"


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _without_password(url: str) -> str:
    # Host and database alone: a password may also stand in the query.
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"
