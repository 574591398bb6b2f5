"""Pages and archives to committed rows, against `psql \\copy` of a ready CSV into the same keyed table.

The baseline does no JSON, no staging and no conflict handling: it is what the server itself needs for these
rows with this key in this order. A ratio of 0.5 means that decoding, staging, upsert and progress cost as much again.
Each is measured between two runs of its baseline, which are averaged. Where there is no psql, asyncpg copies.
Database: VIGIL_DATABASE_URL (an empty one), or an embedded Postgres. `python -m benchmarks.ingest [ROWS]`.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import lz4.frame
import msgspec

from benchmarks.baselines.table import Page, copy_file, fresh_table, write_ready
from vigil.beside import beside
from vigil.claims import Claims, Window, hold_worker_lock, new_worker_id
from vigil.db import Link, session
from vigil.embedded import embedded_postgres
from vigil.fills import decode_page
from vigil.load.loading import Load
from vigil.load.places import find
from vigil.pipeline import prepare_database
from vigil.settings import load_settings
from vigil.simulator import Population
from vigil.simulator.archives import blocks
from vigil.store import WRITER_SESSION, Chunk, Store, prepare_staging
from vigil.writer import BatchLimits, ChunkQueue, write_batches

ROWS = 240_000
PAGE = 2_000
ARCHIVED_USER_ROWS = 200
"""Of one user in a day of archives."""
DAY_MS = 86_400_000
DAY_START_MS = 1_753_660_800_000
FILES = 2


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    url = os.environ.get("VIGIL_DATABASE_URL")
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as directory:
        place = Path(directory)
        with nullcontext(url) if url else embedded_postgres(place / "postgres") as dsn:
            asyncio.run(measure(dsn, rows, place))


async def measure(dsn: str, rows: int, place: Path) -> None:
    await prepare_database(dsn)
    pages = make_pages(rows)
    archives, events = make_archives(rows, place)
    by_user, by_time = place / "by_user.csv", place / "by_time.csv"
    write_ready(by_user, pages)
    write_ready(by_time, ((user, f"[{row}]".encode()) for user, row in events))
    print(f"\n{rows:,} rows; as a share of what `psql \\copy` of a ready CSV makes of the same rows in the same order:")
    for name, ready, work, fresh in (
        ("pages, JSON to committed rows", by_user, lambda: commit_pages(dsn, pages), True),
        ("the same pages once more", by_user, lambda: commit_pages(dsn, pages), False),
        ("load, one file at a time", by_time, lambda: load(dsn, archives, jobs=1), True),
        ("load --again, nothing new", by_time, lambda: load(dsn, archives, jobs=1), False),
        ("load --jobs 2", by_time, lambda: load(dsn, archives, jobs=2), True),
    ):
        if fresh:
            await empty(dsn)
        before = await clock(lambda ready=ready: copy_ready(dsn, ready))  # type: ignore[misc]
        ours = await clock(work)
        after = await clock(lambda ready=ready: copy_ready(dsn, ready))  # type: ignore[misc]
        baseline = (before + after) / 2
        print(
            f"{name:32} {baseline / ours:5.2f}   ({rows / ours:,.0f} rows/s; copy {rows / baseline:,.0f})", flush=True
        )
        async with session(dsn) as connection:
            count = await connection.fetchval("SELECT count(*) FROM fills")
            assert count == rows, f"{count} rows of {rows} arrived"


def make_pages(rows: int) -> list[Page]:
    """Full pages of simulated users: (address, body)."""
    users = rows // PAGE
    population = Population(users, seed=1, lengths=dict.fromkeys(range(users), PAGE))
    return [(population.address(i), msgspec.json.encode(population.fills(i)[:PAGE])) for i in range(users)]


def make_archives(rows: int, place: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """A day of node_fills_by_block in a few files, and its events in order."""
    users = rows // ARCHIVED_USER_ROWS
    population = Population(users, seed=2, lengths=dict.fromkeys(range(users), ARCHIVED_USER_ROWS))
    events = []
    for index in range(users):
        user, history = population.address(index), population.history(index)
        for time_ms, row in zip(history.times, history.rows, strict=True):
            moved = DAY_START_MS + time_ms % DAY_MS
            events.append((moved, user, re.sub(r'"time":\d+', f'"time":{moved}', row, count=1)))
    events.sort(key=lambda event: event[0])
    paths = []
    for number in range(FILES):
        part = events[len(events) * number // FILES : len(events) * (number + 1) // FILES]
        path = place / f"{number}.lz4"
        path.write_bytes(lz4.frame.compress("".join(f"{line}\n" for line in blocks(part)).encode()))
        paths.append(str(path))
    return paths, [(user, row) for _, user, row in events]


async def empty(dsn: str) -> None:
    async with session(dsn) as connection:
        await connection.execute("TRUNCATE fills, backfill_progress, backfill_workers, backfill_files")


async def copy_ready(dsn: str, ready: Path) -> None:
    """The rows into an empty table with the key of `fills`, a hypertable if that is one."""
    await fresh_table(dsn, "copied")
    await copy_file(dsn, "copied", ready)


async def load(dsn: str, paths: list[str], *, jobs: int) -> None:
    tally = await Load(load_settings(), dsn, find(paths), jobs=jobs, again=True).execute()
    assert not tally.failed, tally.failed


async def commit_pages(dsn: str, pages: list[Page]) -> None:
    """What the pagers and the writer do with these pages, without the exchange."""
    settings = load_settings()
    worker = new_worker_id()
    users = [user for user, _ in pages]
    control = Link(dsn, settings, prepare=hold_worker_lock(worker))
    writing = Link(dsn, settings, prepare=prepare_staging, server_settings=WRITER_SESSION)
    claims = Claims(control, settings, worker, Window(0, 2**42), users=users)
    async with session(dsn) as connection:
        await connection.execute("TRUNCATE backfill_progress")
    queue = ChunkQueue(settings.queue_pages)
    bodies, left = dict(pages), iter(range(len(pages)))

    async def page_users() -> None:
        while next(left, None) is not None:
            claim = await claims.next()
            assert claim is not None
            chunk = Chunk(claim.user, 2**42, await beside(decode_page, bodies[claim.user]), done=True)
            await beside(chunk.encode)
            await queue.put(chunk)

    limits = BatchLimits(settings.batch_rows, settings.batch_bytes, settings.batch_seconds)
    try:
        await claims.enroll()
        await claims.register()
        store = Store(writing, worker, lease_seconds=60)
        writer = asyncio.create_task(write_batches(queue, store.commit, limits, lambda *_: None))
        await asyncio.gather(*[page_users() for _ in range(settings.concurrency)])
        await asyncio.wait({writer, asyncio.ensure_future(queue.drain())}, return_when=asyncio.FIRST_COMPLETED)
        writer.cancel()
        await asyncio.wait({writer})
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
