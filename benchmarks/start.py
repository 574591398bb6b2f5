"""How long a run takes to its first request, and what memory it needs, whatever the number of users.

    python -m benchmarks.start [--users 1000 100000 10000000] [--concurrency 8 64] [--seconds 40]

Each size has a database of its own with so many users known, a tenth of them in `fills` as well. Told are the
seconds from the start of the real `vigil-backfill run`, as a process, to its first request (and how many of them
Python needs to import the program), and the largest resident memory while it reads full pages from an exchange
without a budget: as fast as the database takes them, so that the queue is full. Ten million users take a quarter of
an hour to make. Database: the server of VIGIL_TEST_DATABASE_URL, or an embedded one.
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

NO_BUDGET = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 100_000, 10_000_000])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    print(f"{asyncio.run(imported()):.2f} s until the program is imported")
    with serving(choose()) as server:
        for users in options.users:
            with server.database(migrated=True) as url:
                asyncio.run(made(url, users))
                print(f"{users:12,} users: first request after {asyncio.run(first_request(url)):.2f} s", flush=True)
                for concurrency in options.concurrency:
                    asyncio.run(memory(url, concurrency, options.seconds))


async def imported() -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import vigil.cli")
    await process.wait()
    return time.perf_counter() - started


async def made(url: str, users: int) -> None:
    async with session(url) as connection:
        await populate(connection, users)
        await connection.execute("TRUNCATE backfill_progress")
        await add_users(connection, users, read=False)
        await connection.execute("ANALYZE", timeout=600)


async def first_request(url: str) -> float:
    async with simulated() as exchange:
        env = {**os.environ, "VIGIL_DATABASE_URL": url, "VIGIL_API_URL": exchange}
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
