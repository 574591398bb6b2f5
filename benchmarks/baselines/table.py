"""Tables to write the same rows into, all like `fills`, and what a ready file needs to get into one."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from vigil.copy_text import COPY_COLUMNS, copy_line, line_columns
from vigil.db import Connection, session
from vigil.fills import decode_page

KEY = ("user_address", "time", "coin", "oid", "tid", "side")

Page = tuple[str, bytes]
"""An address, and an answer of the exchange."""
Write = Callable[[str, str, Sequence[Page]], Awaitable[None]]
"""A way: DSN, table, pages, from their JSON to committed rows."""

COLLATIONS = ("en_US.utf8", "C.utf8")
"""The C library's that a database has by default elsewhere, the usual one first; the embedded one has plain C."""


async def fresh_table(dsn: str, table: str, collation: str = "C") -> None:
    """An empty table of the columns and the key of `fills`, a hypertable where that is one; replaces the last.

    `collation` is that of the key's texts.
    """
    texts = ("user_address", "coin", "side")
    async with session(dsn) as connection:
        await connection.execute(f"DROP TABLE IF EXISTS {table}")
        await connection.execute(f"CREATE TABLE {table} (LIKE fills)")
        if collation != "C":
            changes = ", ".join(f'ALTER {name} TYPE text COLLATE "{collation}"' for name in texts)
            await connection.execute(f"ALTER TABLE {table} {changes}")
        await connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({', '.join(KEY)})")
        if await connection.fetchval("SELECT hypertable FROM backfill_shape()"):
            await connection.execute(
                f"SELECT create_hypertable('{table}', 'time', create_default_indexes => false,"
                " chunk_time_interval => (SELECT time_interval FROM timescaledb_information.dimensions"
                " WHERE hypertable_name = 'fills' LIMIT 1))"
            )


async def default_collation(connection: Connection) -> str | None:
    """What texts are collated by where nobody chose: this database's default, if that is C the likeliest of others."""
    default = await connection.fetchval("SELECT datcollate FROM pg_database WHERE datname = current_database()")
    if default not in ("C", "POSIX"):
        return "default"
    known = {row["collname"] for row in await connection.fetch("SELECT collname FROM pg_collation")}
    return next((name for name in COLLATIONS if name in known), None)


def write_ready(path: Path, pages: Iterable[Page]) -> None:
    """The rows of the pages as CSV, columns as in COPY_COLUMNS."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for user, body in pages:
            writer.writerows(line_columns(copy_line(user, fill)).values() for fill in decode_page(body))


async def copy_file(dsn: str, table: str, ready: Path) -> None:
    """`psql \\copy` of a ready CSV; where there is no psql, asyncpg copies it."""
    if shutil.which("psql") is None:
        async with session(dsn) as connection:
            await connection.copy_to_table(table, source=ready, columns=COPY_COLUMNS, format="csv")
        return
    copy = f"\\copy {table} ({', '.join(COPY_COLUMNS)}) FROM '{ready}' (FORMAT csv)"
    process = await asyncio.create_subprocess_exec(
        "psql", dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", copy, env={**os.environ, "PGTZ": "UTC"}
    )
    assert await process.wait() == 0
