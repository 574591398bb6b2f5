"""JSON pages to committed rows, against COPY of a ready file into the same keyed table.

The baseline does no JSON, no staging and no conflict handling: it is what the server itself needs
for these rows with this key. A ratio of 0.5 means that decoding, staging, upsert and progress cost
as much again. Database: VIGIL_DATABASE_URL (an empty one), or an embedded Postgres.
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from vigil.claims import Claims, Window, hold_worker_lock, new_worker_id
from vigil.db import Connection, Link, session
from vigil.embedded import embedded_postgres
from vigil.fills import COPY_COLUMNS, copy_line, decode_page
from vigil.pipeline import prepare_database
from vigil.settings import load_settings
from vigil.simulator import Population
from vigil.store import WRITER_SESSION, Chunk, Store, prepare_staging

USERS = 60
PAGE = 2000
BATCH_PAGES = 10


def main() -> None:
    url = os.environ.get("VIGIL_DATABASE_URL")
    if url:
        asyncio.run(measure(url))
        return
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as directory, embedded_postgres(Path(directory)) as dsn:
        asyncio.run(measure(dsn))


async def measure(dsn: str) -> None:
    await prepare_database(dsn)
    pages = make_pages()
    rows = len(pages) * PAGE
    async with session(dsn) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS copied (LIKE fills INCLUDING INDEXES)")
        await connection.execute("TRUNCATE copied, fills, backfill_progress, backfill_workers")
        ready = ready_lines(pages)
        baseline = await clock(lambda: copy_ready(connection, ready))
        ours = await clock(lambda: commit_pages(dsn, pages))
        again = await clock(lambda: commit_pages(dsn, pages))
        count = await connection.fetchval("SELECT count(*) FROM fills")
        await connection.execute("DROP TABLE copied")
    assert count == rows, f"{count} rows of {rows} arrived"
    print(f"\n{rows:,} rows; COPY of a ready file into the same keyed table: {rows / baseline:,.0f} rows/s")
    print(f"{'JSON pages to committed rows':32} {baseline / ours:5.2f} of it")
    print(f"{'the same pages once more':32} {baseline / again:5.2f} of it")


def make_pages() -> list[tuple[str, bytes]]:
    """Full pages of simulated users: (address, body)."""
    population = Population(USERS, seed=1, lengths=dict.fromkeys(range(USERS), PAGE))
    return [(population.address(i), msgspec.json.encode(population.fills(i)[:PAGE])) for i in range(USERS)]


def ready_lines(pages: list[tuple[str, bytes]]) -> bytes:
    """The baseline's file, time already as Postgres prints it."""
    lines = []
    for user, body in pages:
        for fill in decode_page(body):
            columns = copy_line(user, fill).split("\t")
            whole, ms = divmod(fill.time, 1000)
            columns[1] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(whole)) + f".{ms:03}+00"
            lines.append("\t".join(columns))
    return "".join(lines).encode()


async def copy_ready(connection: Connection, ready: bytes) -> None:
    columns = ["time" if name == "time_ms" else name for name in COPY_COLUMNS]
    await connection.copy_to_table("copied", source=io.BytesIO(ready), columns=columns, format="text")


async def commit_pages(dsn: str, pages: list[tuple[str, bytes]]) -> None:
    """What the pagers and the writer do with these pages, without the exchange."""
    settings = load_settings()
    worker = new_worker_id()
    users = [user for user, _ in pages]
    control = Link(dsn, settings, prepare=hold_worker_lock(worker))
    writing = Link(dsn, settings, prepare=prepare_staging, server_settings=WRITER_SESSION)
    claims = Claims(control, settings, worker, Window(0, 2**42), users=users)
    async with session(dsn) as connection:
        await connection.execute("TRUNCATE backfill_progress")
    try:
        await claims.enroll()
        await claims.register()
        for _ in users:
            await claims.next()
        store = Store(writing, worker, lease_seconds=60)
        for i in range(0, len(pages), BATCH_PAGES):
            batch = pages[i : i + BATCH_PAGES]
            await store.commit([Chunk(user, 2**42, decode_page(body), done=True) for user, body in batch])
    finally:
        await claims.release()
        await control.close()
        await writing.close()


async def clock(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
