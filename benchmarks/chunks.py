"""How long should a chunk be, and by what should it be packed?

Heavy-tailed users over two and a half years are written as a backfill writes them, user by user in batches of
20,000 rows through `Store`, into a fresh database for each chunk interval; then the questions that the
backfill and people ask, before and after the chunks are packed. Times are given as ratios to those of
30-day chunks: 1.5 takes half as long again. `--packing` compares what rows are packed by instead.
Needs TimescaleDB, and a role that may create databases.

    VIGIL_DATABASE_URL=… python -m benchmarks.chunks [--rows 1000000] [--packing] [DAYS ...]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from vigil.claims import Claims, Window, hold_worker_lock, new_worker_id
from vigil.db import Connection, Link, session
from vigil.fills import decode_page
from vigil.judge import judge
from vigil.pipeline import prepare_database
from vigil.settings import Settings, load_settings
from vigil.simulator import Population
from vigil.store import WRITER_SESSION, Chunk, Store, prepare_staging

BASELINE_DAYS = 30
BATCH_ROWS = 20_000
ASKED_USERS = 40
PACKINGS = {
    "user | time, key": ("user_address", "time, coin, oid, tid, side"),
    "user | time, tid": ("user_address", "time, tid"),
    "user | coin, time": ("user_address", "coin, time, tid"),
    "user, coin | time": ("user_address, coin", "time, tid"),
    "- | user, time": ("", "user_address, time, coin, oid, tid, side"),
    "coin | user, time": ("coin", "user_address, time, tid"),
}

History = tuple[str, bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("days", nargs="*", type=int)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--packing", action="store_true")
    options = parser.parse_args()
    url = os.environ.get("VIGIL_DATABASE_URL")
    if not url:
        parser.error("VIGIL_DATABASE_URL is not set")
    histories = make_histories(options.rows)
    rows = sum(body.count(b'"tid"') for _, body in histories)
    print(f"{rows:,} rows of {len(histories):,} users\n")
    if options.packing:
        found = {
            name: asyncio.run(measure(url, histories, BASELINE_DAYS, packing)) for name, packing in PACKINGS.items()
        }
        show(found, next(iter(PACKINGS)))
        return
    intervals = options.days or [1, 7, 30, 90, 365]
    by_days = {f"{days} d": asyncio.run(measure(url, histories, days)) for days in intervals}
    show(by_days, f"{BASELINE_DAYS if BASELINE_DAYS in intervals else intervals[0]} d")


def make_histories(rows: int) -> list[History]:
    """Users and their histories as the exchange would serve them."""
    population = Population(max(100, rows // 200), seed=5)
    histories: list[History] = []
    for index in range(population.size):
        body = ("[" + ",".join(population.history(index).rows) + "]").encode()
        rows -= population.length(index)
        if rows < 0:
            break
        if len(body) > 2:
            histories.append((population.address(index), body))
    return histories


async def measure(
    url: str, histories: Sequence[History], days: int, packing: tuple[str, str] | None = None
) -> dict[str, float]:
    """Seconds (and megabytes) by question."""
    found: dict[str, float] = {}
    async with database(url) as dsn:
        await prepare_database(dsn)
        async with session(dsn) as connection:
            await connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
            await connection.execute(f"SELECT set_chunk_time_interval('fills', interval '{days} days')")
            if packing is not None:
                await connection.execute(
                    "ALTER TABLE fills SET (timescaledb.compress,"
                    f" timescaledb.compress_segmentby = '{packing[0]}', timescaledb.compress_orderby = '{packing[1]}')"
                )
            late = histories[:: max(1, len(histories) // 50)]
            first = [one for one in histories if one not in late]
            found["new rows"] = await write(dsn, first)
            found["again"] = await write(dsn, first[: len(first) // 10])
            await connection.execute("VACUUM ANALYZE fills")
            await ask(connection, [user for user, _ in histories], found, "")
            found["MB"] = await megabytes(connection)
            found["packing"] = await pack(connection)
            await connection.execute("VACUUM ANALYZE fills")
            found["MB packed"] = await megabytes(connection)
            await ask(connection, [user for user, _ in histories], found, " packed")
            found["late rows packed"] = await write(dsn, late)
            found["again packed"] = await write(dsn, first[: len(first) // 10])
            await connection.execute("UPDATE fills SET seq = NULL WHERE user_address = ANY ($1)", [u for u, _ in late])
            await pack(connection)
            found["told more packed"] = await write(dsn, late)
            found["packing again"] = await pack(connection)
            found["chunks"] = await connection.fetchval("SELECT count(*) FROM show_chunks('fills')")
    print({name: round(value, 3) for name, value in found.items()})
    return found


async def ask(connection: Connection, users: Sequence[str], found: dict[str, float], suffix: str) -> None:
    """What is asked of the table: seconds, of the median of some users where it is one user's matter."""
    asked = users[:: max(1, len(users) // ASKED_USERS)]
    whole = "SELECT * FROM fills WHERE user_address = $1"
    of_one_user = {
        "one user's rows": f"{whole} ORDER BY time, seq",
        "one user's day": f"{whole} AND time >= '2024-06-01' AND time < '2024-06-02'",
    }
    for name, statement in of_one_user.items():
        taken = []
        for user in asked:
            started = time.perf_counter()
            await connection.fetch(statement, user)
            taken.append(time.perf_counter() - started)
        found[name + suffix] = sorted(taken)[len(taken) // 2]
    planned = await connection.fetch(f"EXPLAIN (SUMMARY) {whole}", asked[0])
    found["planning it" + suffix] = float(planned[-1][0].split()[-2]) / 1000
    started = time.perf_counter()
    async with connection.transaction():
        await judge(connection, asked)
    found["verdicts" + suffix] = time.perf_counter() - started
    started = time.perf_counter()
    await connection.fetch("SELECT DISTINCT user_address FROM fills ORDER BY user_address")
    found["discovery" + suffix] = time.perf_counter() - started
    started = time.perf_counter()
    await connection.fetch("SELECT date_trunc('month', time), sum(px * sz), sum(fee) FROM fills GROUP BY 1")
    found["all by month" + suffix] = time.perf_counter() - started


async def write(dsn: str, histories: Sequence[History]) -> float:
    """What the writer does with these users, without the exchange; seconds."""
    settings = load_settings()
    worker = new_worker_id()
    users = [user for user, _ in histories]
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
        return await commit(Store(writing, worker, lease_seconds=600), histories, settings)
    finally:
        await claims.release()
        await control.close()
        await writing.close()


async def commit(store: Store, histories: Sequence[History], settings: Settings) -> float:
    taken = 0.0
    batch: list[Chunk] = []
    for place, (user, body) in enumerate(histories, 1):
        batch.append(Chunk(user, 2**42, decode_page(body), done=True))
        if sum(len(chunk.fills) for chunk in batch) >= BATCH_ROWS or place == len(histories):
            started = time.perf_counter()
            await store.commit(batch)
            taken += time.perf_counter() - started
            batch = []
    return taken


async def pack(connection: Connection) -> float:
    """Chunk by chunk: in one transaction, short chunks are more than a server has locks for. Seconds."""
    started = time.perf_counter()
    for row in await connection.fetch("SELECT show_chunks('fills')::text AS chunk"):
        await connection.execute(f"SELECT compress_chunk('{row['chunk']}')")
    return time.perf_counter() - started


async def megabytes(connection: Connection) -> float:
    size = "SELECT hypertable_size('fills') / 1e6"
    return float(await connection.fetchval(size))


@asynccontextmanager
async def database(url: str) -> AsyncIterator[str]:
    """A fresh database beside that of `url`."""
    name = f"vigil_chunks_{os.getpid()}"
    async with session(url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def show(found: dict[str, dict[str, float]], baseline: str) -> None:
    base = found[baseline]
    print(f"\n{'':22}" + "".join(f"{name:>20}" for name in found))
    for question, value in base.items():
        cells = "".join(f"{one[question] / value:>20.2f}" for one in found.values())
        print(f"{question:22}{cells}   ({value:,.4g})")


if __name__ == "__main__":
    main()
