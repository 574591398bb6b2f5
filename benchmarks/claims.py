"""What claiming costs with ten thousand, a million and ten million users.

    python -m benchmarks.claims [--full] [--users N ...]

Each size has a database of its own, made and dropped on the server of VIGIL_TEST_DATABASE_URL (or
the compose file's, or an embedded one): users with made-up addresses in `backfill_progress`, and
one fill of every tenth of them in `fills`. Vacuums come only where it says so: what awaits one is part of the
question. `--full` adds ten million users: some 8 GB and the better part of an hour.

How to read it. Each line is the median of the real calls of `vigil.claims`, in milliseconds, and
its ratio to the smallest size: 1 is what does not grow with the users. Lines marked with a star
happen once in a run and look at every user, so they may grow; all others happen for every user or
every second, so they may not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.kit.database import Server, choose, serving
from vigil.claims import EVERYBODY, Claims, Shard, Window, hold_worker_lock, new_worker_id, session_name
from vigil.db import Connection, Link, session, sql
from vigil.settings import Settings

WINDOW = Window(1_672_531_200_000, 1_753_574_400_000)
SMALL, LARGE, FULL = 10_000, 1_000_000, 10_000_000
PART = Shard(3, 50)
TIMES = 200
AT_ONCE = 500_000

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds of claiming, and how they grow with the users.")
    parser.add_argument("--full", action="store_true", help="ten million users as well")
    parser.add_argument("--users", type=int, nargs="+", help="these sizes instead")
    arguments = parser.parse_args()
    sizes = arguments.users or [SMALL, LARGE, *([FULL] if arguments.full else [])]
    measured: dict[int, Figures] = {}
    with serving(choose()) as server:
        for users in sizes:
            measured[users] = measure(server, users, explained=users == sizes[-1])
            show(measured)


def measure(server: Server, users: int, *, explained: bool) -> Figures:
    with server.database(migrated=True) as url:
        return asyncio.run(figures(url, users, explained=explained))


async def figures(url: str, users: int, *, explained: bool) -> Figures:
    found: Figures = {}
    async with session(url) as connection:
        await populate(connection, users)
    await nothing_left(url, found)
    async with session(url) as connection:
        await connection.execute("TRUNCATE backfill_progress")
        await add_users(connection, users, read=False)
        await settle(connection)
        if explained:
            await explain(connection, "a claim", "pick_pending", *window(), *start_of(EVERYBODY), 1 << 32)
            shard = PART.range
            await explain(connection, f"a claim of {PART}", "pick_pending", *window(), shard[0], "", shard[1])
            await explain(connection, "is anybody busy?", "others_users", 1, *EVERYBODY.range, *window())
    await claiming(url, found)
    await shard_read(url, found, explained=explained)
    await half_claimed(url, found)
    return found


# The cases


async def nothing_left(url: str, found: Figures) -> None:
    """Everybody is read, and known."""
    async with a_worker(url) as claims:
        found["* enroll, nothing new in fills"] = await clock(claims.enroll)
        found["nothing left: is anybody busy?"] = await median(claims._others_are_busy, 20)
        found["nothing left: the run's last claim"] = await clock(claims.next)


async def claiming(url: str, found: Figures) -> None:
    """Nobody is read."""
    for shard, name in ((EVERYBODY, ""), (PART, " of a 50th")):
        async with a_worker(url, shard) as claims:
            found[f"first claim{name}"] = await clock(claims.next)
            found[f"a claim{name}"] = await median(claims.next)
    async with a_worker(url) as claims:
        found["* count_pending"] = await median(lambda: claims.count_pending(claims._link), 3)


async def shard_read(url: str, found: Figures, *, explained: bool) -> None:
    """All of one shard are read, everybody else is left."""
    async with session(url) as connection:
        await connection.execute(
            "UPDATE backfill_progress SET completed = true, claimed_by = NULL, window_start_ms = $1, cursor_ms = $2"
            " WHERE shard >= $3 AND shard < $4",
            *window(),
            *PART.range,
        )
        for again in ("", ", again"):
            async with a_worker(url, PART) as claims:
                found[f"nothing left of a 50th{again}"] = await clock(claims.next)
        if explained:
            await explain(connection, "nothing left of a 50th", "others_users", 1, *PART.range, *window())


async def half_claimed(url: str, found: Figures) -> None:
    """The first half was just claimed, then read, by another worker; no vacuum has been there, so that it is walked."""
    async with session(url) as connection:
        await connection.execute(
            "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at) VALUES (7, 'h', 1, now() + '1 day')"
        )
        await connection.execute("SELECT pg_advisory_lock(7)")
        await connection.execute(
            "UPDATE backfill_progress SET claimed_by = 7 WHERE state = 'pending' AND shard < $1", 1 << 31, timeout=3600
        )
        for name in ("half just claimed: first claim", "half just claimed: next run's first"):
            async with a_worker(url) as claims:
                found[name] = await clock(claims.next)
                found["half just claimed: a claim"] = await median(claims.next)
                found["half just claimed: anybody busy?"] = await median(claims._others_are_busy, 20)
        await connection.execute(
            "UPDATE backfill_progress SET claimed_by = NULL, completed = true, window_start_ms = $1, cursor_ms = $2"
            " WHERE claimed_by = 7",
            *window(),
            timeout=3600,
        )
        async with a_worker(url) as claims:
            found["half just read: first look for orphans"] = await clock(claims._bury_the_dead)
            found["half just read: looking for orphans"] = await median(claims._bury_the_dead, 20)
            found["half just read: anybody busy?"] = await median(claims._others_are_busy, 20)


# Making the users


async def populate(connection: Connection, users: int) -> None:
    await connection.execute("ALTER TABLE backfill_progress SET (autovacuum_enabled = off)")
    await add_users(connection, users, read=True)
    await connection.execute(
        "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
        " SELECT user_address, timestamptz '2024-01-01' + (shard % 500) * interval '1 day', 'BTC', 'B', 1, 1, 1, 1"
        " FROM backfill_progress WHERE shard % 10 = 0",
        timeout=3600,
    )
    await settle(connection)
    await connection.execute("ANALYZE fills", timeout=3600)


async def add_users(connection: Connection, users: int, *, read: bool) -> None:
    for first in range(0, users, AT_ONCE):
        await connection.execute(
            "INSERT INTO backfill_progress (user_address, completed, window_start_ms, cursor_ms)"
            " SELECT '0x' || left(encode(sha256(n::text::bytea), 'hex'), 40), $3, $4, $5"
            " FROM generate_series($1::bigint, $2::bigint) AS n",
            first,
            min(first + AT_ONCE, users) - 1,
            read,
            WINDOW.start_ms if read else None,
            WINDOW.end_ms if read else None,
            timeout=3600,
        )


async def settle(connection: Connection) -> None:
    await connection.execute("VACUUM ANALYZE backfill_progress", timeout=3600)
    await connection.execute("CHECKPOINT", timeout=3600)


# Working


@asynccontextmanager
async def a_worker(url: str, shard: Shard = EVERYBODY) -> AsyncIterator[Claims]:
    """A fresh one, so with its pointer at the beginning; it leaves its users claimed, for speed."""
    number = new_worker_id()
    settings = Settings(_env_file=None, lane="benchmark", lease_seconds=3600, database_timeout_seconds=3600)  # type: ignore[call-arg]
    link = Link(url, settings, prepare=hold_worker_lock(number), server_settings=session_name(number))
    claims = Claims(link, settings, number, WINDOW, shard=shard)
    try:
        await claims.register()
        yield claims
        await claims.release()
    finally:
        await link.close()


async def median(work: Callable[[], Awaitable[object]], times: int = TIMES) -> float:
    return statistics.median([await clock(work) for _ in range(times)])


async def clock(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000


# Telling


def window() -> tuple[int, int]:
    return WINDOW.start_ms, WINDOW.end_ms


def start_of(shard: Shard) -> tuple[int, str]:
    return shard.range[0], ""


async def explain(connection: Connection, what: str, name: str, *arguments: object) -> None:
    """The plan that a worker's session would come to use, without what it does not touch."""
    rolled_back = connection.transaction()
    await rolled_back.start()
    try:
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {sql(name)}", *arguments)
    finally:
        await rolled_back.rollback()
    print(f"\n{name}.sql, {what}:")
    for (line,) in rows:
        if "never executed" not in line and "Planning" not in line:
            print(f"    {line}")


def show(measured: dict[int, Figures]) -> None:
    sizes = list(measured)
    print(f"\n{'milliseconds (ratio)':38}" + "".join(f"{users:>24,}" for users in sizes))
    for name in measured[sizes[0]]:
        base = measured[sizes[0]][name]
        cells = [f"{measured[users][name]:12,.2f} {f'({measured[users][name] / base:,.1f})':>11}" for users in sizes]
        print(f"{name:38}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
