"""The same pages once more by vigil, when all rows are there: what it costs, and what it leaves in the table.

In between all rows are read, off the clock: what their first reader writes (hint bits) counts for neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.ingest import clock
from vigil.db import Connection, session

_PARTS = (
    "(SELECT 'fills'::regclass::oid UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = 'fills'::regclass)"
)
DEAD = f"SELECT sum(n_dead_tup)::bigint FROM pg_stat_all_tables WHERE relid IN {_PARTS}"
ROW_VERSIONS = "SELECT md5(string_agg(format('%s %s %s %s', tableoid, ctid, xmin, xmax), ',' ORDER BY tableoid, ctid))"
BUSY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend' AND application_name = 'vigil-backfill'"
)


@dataclass(frozen=True, slots=True)
class Traces:
    """Of writing the pages once: WAL of the whole server, dead tuples in `fills` when it was over."""

    seconds: float
    wal_bytes: int
    dead_tuples: int
    versions: str
    """Where each row of `fills` lies, and which transactions wrote and locked it: changes with any row."""


async def traced(dsn: str, work: Callable[[], Awaitable[None]]) -> Traces:
    async with session(dsn) as connection:
        before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        taken = await clock(work)
        wal = await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::bigint", before)
        return Traces(taken, wal, await dead_tuples(connection), await versions(connection))


async def versions(connection: Connection) -> str:
    return str(await connection.fetchval(f"{ROW_VERSIONS} FROM fills"))


async def dead_tuples(connection: Connection) -> int:
    """Dead tuples in `fills`; waits for the sessions of before to be gone, who report what they did as they end."""
    while await connection.fetchval(BUSY):
        await connection.execute("SELECT pg_sleep(0.01)")
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return int(await connection.fetchval(DEAD) or 0)
