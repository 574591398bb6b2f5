"""Several addresses in one worker: the throughput of N lanes as a multiple of one, and what it costs.

A simulated exchange and a worker are processes of their own; the worker asks from N loopback
addresses, each with a budget of its own, in real minutes. The first minute is left out: a full
bucket makes it faster. Read `of N` (0.98 or more until a core or the database is full) and `core`,
the share of one core that the worker needed: 1 / core x N lanes would fill it. Needs addresses
127.0.1.2 and up, which Linux has and macOS has not. Database: the server of VIGIL_DATABASE_URL, on
which databases of random names are made and dropped again, or an embedded Postgres.

    python -m benchmarks.lanes 1 10 50
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.database import Choice, serving
from vigil.simulator.truth import open_truth

USERS = 4_000
SCALE = 8.0
CONCURRENCY = 4
WARM_SECONDS, MEASURED_SECONDS = 65.0, 60.0
WEIGHT_PER_MINUTE = 1200
TICKS = os.sysconf("SC_CLK_TCK")


def main(lanes: list[int]) -> None:
    url = os.environ.get("VIGIL_DATABASE_URL")
    print(f"{'lanes':>5} {'weight a minute':>16} {'of N':>6} {'fills/s':>8} {'429s':>5} {'core':>6} {'MiB':>5}")
    with serving(Choice(url, "given" if url else "embedded", timescaledb=False)) as server:
        for count in lanes:
            with server.database(migrated=True) as dsn:
                asyncio.run(measure(dsn, count))


async def measure(dsn: str, count: int) -> None:
    named = [f"127.0.{1 + i // 250}.{2 + i % 250}" for i in range(count)]
    flags = ["--concurrency", CONCURRENCY, *(flag for lane in named for flag in ("--lane", lane))]
    async with simulated() as url, working(dsn, url, *flags) as pid:
        await asyncio.sleep(WARM_SECONDS)
        before, cpu = stats(url), cpu_seconds(pid)
        await asyncio.sleep(MEASURED_SECONDS)
        after, core = stats(url), (cpu_seconds(pid) - cpu) / MEASURED_SECONDS
        memory = resident_mib(pid)
    weight = (after["weight_spent"] - before["weight_spent"]) * 60 / MEASURED_SECONDS
    rows = (after["rows_served"] - before["rows_served"]) / MEASURED_SECONDS
    share = weight / (count * WEIGHT_PER_MINUTE)
    print(
        f"{count:5} {weight:16,.0f} {share:6.3f} {rows:8,.0f} {after['throttled']:5} {core:6.2f} {memory:5.0f}",
        flush=True,
    )


@asynccontextmanager
async def simulated(*flags: object) -> AsyncIterator[str]:
    """A simulated exchange of long histories, as a process; its URL."""
    options = [
        "--users",
        USERS,
        "--scale",
        SCALE,
        "--retention-rows",
        10**6,
        "--latency",
        "0.05-0.1",
        "--port",
        0,
        *flags,
    ]
    process = await command("simulate", *options, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield re.sub(r"^VIGIL_API_URL=", "", line.strip())
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def working(dsn: str, url: str, *flags: object, **settings: object) -> AsyncIterator[int]:
    """A worker over all users of the exchange; its process id."""
    async with open_truth(url) as truth:
        addresses = [address async for address in truth.addresses()]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(addresses))
        file.flush()
        env = {**os.environ, "VIGIL_DATABASE_URL": dsn, "VIGIL_API_URL": url}
        env |= {name: str(value) for name, value in settings.items()}
        options = ["--users-file", file.name, "--twap", "never", *flags]
        process = await command("run", *options, stderr=asyncio.subprocess.DEVNULL, env=env)
        try:
            yield process.pid
            assert process.returncode is None, "the run ended before it was measured: more users are needed"
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def command(*words: object, **options: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "vigil", *map(str, words), **options)  # type: ignore[arg-type]


def stats(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url.removesuffix('/info')}/stats") as answer:
        found: dict[str, int] = json.load(answer)
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1, 10, 50])
