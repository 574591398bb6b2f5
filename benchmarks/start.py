"""How long a run takes to its first request, how long `status` takes, and what memory a run needs, by number of users.

    python -m benchmarks.start [--users 1000 100000 10000000] [--concurrency 8 64] [--seconds 40]
    python -m benchmarks.start --known postgresql://...

Each size has a database of its own with so many users known, a tenth of them in `fills` as well. Told are the
seconds from the start of the real `vigil-backfill run`, as a process, to its first request (and how many of them
Python needs to import the program), and the largest resident memory while it reads full pages from an exchange
without a budget: as fast as the database takes them, so that the queue is full. Ten million users take a quarter of
an hour to make. Database: the server of VIGIL_TEST_DATABASE_URL, or an embedded one. With --known a database that is
there is looked at, and only that: the run is killed at its first request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from benchmarks.claims import add_users, populate
from benchmarks.lanes import command, simulated, stats, working
from tests.kit.database import choose, serving
from vigil.db import session
from vigil.status import read_status

NO_BUDGET = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 100_000, 10_000_000])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--known", metavar="DSN", help="a database with users, instead of making one")
    options = parser.parse_args()
    print(f"{asyncio.run(imported()):.2f} s until the program is imported")
    if options.known:
        asyncio.run(looked_at(options.known))
        return
    with serving(choose()) as server:
        for users in options.users:
            with server.database(migrated=True) as url:
                asyncio.run(made(url, users))
                asyncio.run(looked_at(url))
                for concurrency in options.concurrency:
                    asyncio.run(memory(url, concurrency, options.seconds))


async def imported() -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import vigil.cli.backfill")
    await process.wait()
    return time.perf_counter() - started


async def made(url: str, users: int) -> None:
    async with session(url) as connection:
        await populate(connection, users)
        await connection.execute("TRUNCATE backfill_progress")
        await add_users(connection, users, read=False)
        await connection.execute("ANALYZE", timeout=600)


async def looked_at(url: str) -> None:
    asked, command_line = await status_seconds(url)
    async with session(url) as connection:
        users = (await read_status(connection)).users
    first = await first_request(url)
    print(
        f"{users:12,} users: first request after {first:.2f} s, status {asked * 1000:.0f} ms,"
        f" {command_line:.2f} s with the start of the program",
        flush=True,
    )


async def status_seconds(url: str) -> tuple[float, float]:
    """Of its questions alone, the best of five; and of the whole command."""
    asked = []
    async with session(url) as connection:
        for _ in range(5):
            started = time.perf_counter()
            await read_status(connection)
            asked.append(time.perf_counter() - started)
    started = time.perf_counter()
    process = await command("status", stdout=asyncio.subprocess.DEVNULL, env={**os.environ, "VIGIL_DATABASE_URL": url})
    await process.wait()
    return min(asked), time.perf_counter() - started


async def first_request(url: str) -> float:
    async with simulated() as exchange:
        lane = f"of {os.getpid()}"  # its own: what one that was killed may have spent counts for a minute more
        env = {**os.environ, "VIGIL_DATABASE_URL": url, "VIGIL_API_URL": exchange, "VIGIL_LANE": lane}
        started = time.perf_counter()
        process = await command("run", stderr=asyncio.subprocess.DEVNULL, env=env)
        while stats(exchange)["requests"] == 0:  # noqa: ASYNC110  another process sends it
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - started
        process.kill()
        await process.wait()
    return seconds


async def memory(url: str, concurrency: int, seconds: float) -> None:
    flags = ("--concurrency", concurrency)
    async with (
        simulated("--weight-per-minute", 0) as exchange,
        # A lane of its own: the one before was killed, and what it may have spent counts for a minute more.
        working(url, exchange, *flags, VIGIL_WEIGHT_PER_MINUTE=NO_BUDGET, VIGIL_LANE=f"of {concurrency}") as pid,
    ):
        await asyncio.sleep(seconds)
        largest, rows = peak_mib(pid), stats(exchange)["rows_served"]
    print(
        f"{'':12} concurrency {concurrency:3}: {largest:5.0f} MiB at most, {rows / seconds:8,.0f} fills/s", flush=True
    )


def peak_mib(pid: int) -> float:
    """The largest resident memory so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM: this needs Linux")


if __name__ == "__main__":
    main()
