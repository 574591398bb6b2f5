"""Pages to committed rows by a driver alone, a page a transaction. psycopg is in the extra `bench`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks.baselines.parsed import rows
from benchmarks.baselines.table import Page
from vigil.copy_text import COPY_COLUMNS
from vigil.db import session

INSERT = (
    f"INSERT INTO {{}} ({', '.join(COPY_COLUMNS)}) VALUES ({', '.join(f'${i + 1}' for i in range(len(COPY_COLUMNS)))})"
    " ON CONFLICT DO NOTHING"
)


async def asyncpg_copy(dsn: str, table: str, pages: Sequence[Page]) -> None:
    """`copy_records_to_table`: binary COPY, with its codec of NUMERIC. A row that is there already ends it."""
    async with session(dsn) as connection:
        for user, body in pages:
            await connection.copy_records_to_table(table, records=list(rows(user, body)), columns=COPY_COLUMNS)


async def asyncpg_executemany(dsn: str, table: str, pages: Sequence[Page]) -> None:
    async with session(dsn) as connection:
        for user, body in pages:
            await connection.executemany(INSERT.format(table), list(rows(user, body)))


async def psycopg_copy(dsn: str, table: str, pages: Sequence[Page]) -> None:
    """`COPY` by `write_row`. A row that is there already ends it."""
    psycopg = importlib.import_module("psycopg")
    copy = f"COPY {table} ({', '.join(COPY_COLUMNS)}) FROM STDIN"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for user, body in pages:
            async with connection.cursor() as cursor, cursor.copy(copy) as copying:
                for row in rows(user, body):
                    await copying.write_row(row)
            await connection.commit()
