"""Connections to Postgres that heal, and the one place where its errors are told apart.

A `Link` is one connection for one purpose (the writer's, the claims'). It runs one operation at
a time and repeats it on a new connection when the server went away meanwhile, so an operation
must be safe to repeat: it is one transaction, or idempotent.

Two things were learned the hard way about asyncpg and dying servers: a COPY that is being
back-pressured hangs for ever when its server is killed, though the connection knows that it is
closed, so every operation is raced against the connection's termination and a timeout; and
`transaction()` may cover the real error with an InterfaceError, so a closed connection counts
as an absent server whatever was raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache, partial
from importlib.resources import files
from typing import Any, TypeAlias, TypeVar

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from vigil.errors import StatementTooSlow, StoreError, StoreUnavailable, UsageError
from vigil.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,  # 08
    asyncpg.InsufficientResourcesError,  # 53: disk full, out of memory, too many connections
    asyncpg.OperatorInterventionError,  # 57: shutdown, crash, not yet accepting
    asyncpg.PostgresSystemError,  # 58: the server's disk fails
    asyncpg.TransactionRollbackError,  # 40: deadlock, serialization
    asyncpg.ReadOnlySQLTransactionError,  # 25006: failed over to a replica
    asyncpg.InternalClientError,  # asyncpg lost track: met when a session was ended while its process slept
)
_FOREIGN = (asyncpg.PostgresError, asyncpg.InterfaceError, *_AWAY)
_KEPT_OUT = (
    asyncpg.PostgresError,  # no such role or database, wrong password, no right to connect
    asyncpg.InterfaceError,  # a DSN that asyncpg can't read
    ValueError,
    OverflowError,
)
"""What `connect` may meet and waiting does not cure; `_AWAY` goes first."""


@cache
def sql(name: str) -> str:
    """The statement in `vigil/sql/NAME.sql`."""
    return (files("vigil") / "sql" / f"{name}.sql").read_text("utf-8")


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


async def connect(dsn: str, server_settings: Mapping[str, str] | None = None) -> Connection:
    """Open one connection. Raises: UsageError for a DSN that can't work, StoreUnavailable."""
    try:
        return await asyncpg.connect(
            dsn,
            timeout=10,
            server_settings={"application_name": "vigil-backfill", "timezone": "UTC", **(server_settings or {})},
        )
    except _AWAY as error:
        raise StoreUnavailable(
            f"The database can't be reached: {_sentence(error)}.", hint="Check VIGIL_DATABASE_URL and that it is up."
        ) from error
    except _KEPT_OUT as error:
        raise UsageError(
            f"The database does not let us in: {_sentence(error)}.", hint="Check VIGIL_DATABASE_URL."
        ) from error


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Connection]:
    """A connection for the block, for what is asked once. Raises: as `connect`, and StoreError."""
    connection = await connect(dsn)
    try:
        yield connection
    except _FOREIGN as error:
        raise _translated(connection, error) from error
    finally:
        await _close(connection)


class Link:
    """One healing connection; `prepare` is run on each new one (temporary tables, session locks)."""

    def __init__(
        self,
        dsn: str,
        settings: Settings,
        *,
        prepare: Callable[[Connection], Awaitable[Any]] | None = None,
        server_settings: Mapping[str, str] | None = None,
    ) -> None:
        self.reconnects = 0
        self._dsn = dsn
        self._timeout = settings.database_timeout_seconds
        self._patience = settings.database_patience_seconds
        self._prepare = prepare
        self._server_settings = server_settings
        self._old_pid: int | None = None
        self._connection: Connection | None = None
        self._busy = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Link {'connected' if self.connected else 'not connected'}, {self.reconnects} reconnects>"

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def run(
        self,
        operation: Callable[[Connection], Awaitable[T]],
        *,
        patience: float | None = None,
        timeout: float | None = None,
        wait_for_slow: bool = True,
    ) -> T:
        """The result of `operation` on the connection, repeated when the server went away meanwhile.

        `patience` is how many seconds to go on trying, `timeout` how many one try may take (defaults:
        the settings'); `wait_for_slow` False raises StatementTooSlow at the first try.
        Raises: StoreUnavailable when it is over; whatever else the operation raises.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: (
                    isinstance(error, StoreUnavailable) and (wait_for_slow or not isinstance(error, StatementTooSlow))
                )
            ),
            stop=stop_after_delay(self._patience if patience is None else patience),
            wait=wait_random_exponential(multiplier=0.1, max=1),
            reraise=True,
        )
        async with self._busy:
            return await retrying(self._run_once, operation, timeout or self._timeout)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)

    async def _run_once(self, operation: Callable[[Connection], Awaitable[T]], timeout: float) -> T:
        if self._connection is None or self._connection.is_closed():
            connection = await connect(self._dsn, self._server_settings)
            self.reconnects += 1
            try:
                if self._old_pid is not None:
                    await self._guarded(connection, partial(_end_session, self._old_pid), timeout)
                self._old_pid = connection.get_server_pid()
                if self._prepare is not None:
                    await self._guarded(connection, self._prepare, timeout)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return await self._guarded(self._connection, operation, timeout)

    async def _guarded(
        self, connection: Connection, operation: Callable[[Connection], Awaitable[T]], timeout: float
    ) -> T:
        """Run `operation` until it ends, the connection does, or the timeout; never hang."""
        gone = asyncio.get_running_loop().create_future()

        def on_termination(_: Any) -> None:
            if not gone.done():
                gone.set_result(None)

        connection.add_termination_listener(on_termination)
        task = asyncio.ensure_future(operation(connection))
        try:
            await asyncio.wait({task, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and gone.done():
                await asyncio.wait({task}, timeout=1)  # usually it fails by itself, with a better reason
            if task.done():
                return task.result()
            if gone.done():
                raise StoreUnavailable("The database closed the connection in the middle of a statement.")
            raise StatementTooSlow(
                f"The database did not answer within {timeout:g} s (VIGIL_DATABASE_TIMEOUT_SECONDS)."
            )
        except _FOREIGN as error:
            raise _translated(connection, error) from error
        finally:
            gone.cancel()
            connection.remove_termination_listener(on_termination)
            if not task.done():  # cancelled, late, or the server is gone: the server rolls back what it had
                connection.terminate()
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                if task.done() and not task.cancelled():
                    task.exception()  # seen: it only says that the connection was closed


async def _end_session(pid: int, connection: Connection) -> None:
    await connection.execute(sql("end_old_session"), pid)


async def _close(connection: Connection) -> None:
    try:
        if not connection.is_closed():
            await connection.close(timeout=2)
    except _FOREIGN:
        connection.terminate()


def _translated(connection: Connection, error: Exception) -> Exception:
    refused = StoreError(f"The database refused a statement: {_sentence(error)}.")
    if isinstance(error, asyncpg.ConfigurationLimitExceededError):  # 53400 is of class 53, but does not pass
        return refused
    lost_track = type(error) is asyncpg.InterfaceError  # the session ended in the middle of an operation
    if isinstance(error, _AWAY) or connection.is_closed() or lost_track:
        if not connection.is_closed() and not isinstance(error, asyncpg.TransactionRollbackError):
            connection.terminate()  # e.g. read-only after a failover: look for the primary anew
        return StoreUnavailable(f"The database went away: {_sentence(error)}.")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return UsageError(
            f"The database role may not do this: {_sentence(error)}.", hint="Grant it that right or use another."
        )
    return refused


def _sentence(error: BaseException) -> str:
    """The first line of a foreign error without its full stop; asyncpg's errors never hold the DSN."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
