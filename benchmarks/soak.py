"""A soak in scaled time: a week of the exchange in some minutes, with every kind of fault. Does anything grow?

    python -m benchmarks.soak [--users 100000] [--fault-share 0.05] [--minutes 15]

The real `vigil-backfill run`, as a process, against a simulated exchange in another one. How the week
is scaled: the weight that the population costs, faults included, is spread over 7 x 1440 of the
exchange's minutes, and so many of them over `--minutes` of ours. (At the real 1200 a minute 100,000 users
with these histories take some two days; so the exchange of this week is the stingier one.) A hanging answer
is given up after half a second, several of these minutes, in which it keeps its share of the budget: with 5 %
faults the week takes about 1.7 times as long as planned. All kinds of faults are drawn but two, after which no
client could have the truth.

Every second: resident memory, open files, sockets and threads of the process, its asyncio tasks and objects
(`benchmarks/probe.py`), its sessions in the database. Printed at each eighth of the users done, and what each
did over the second half: `flat` is a number, the slope of the resident memory in bytes for 1,000 users. What is
remembered up to a bound (`vigil/owners.py`) grows in steps until some 70,000 users are done. At the end the
rows of every user are checked, by number and times, or (`--columns`) compared with the truth column by column.
Exit code 1: something is wrong there.
Database: VIGIL_DATABASE_URL, which must be empty, or an embedded Postgres in a temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.watch import Sample, Watch, print_samples
from vigil.claims import Window
from vigil.db import Connection, session
from vigil.embedded import embedded_postgres
from vigil.errors import EXIT_DONE, EXIT_SOME_USERS_FAILED
from vigil.rehearsal import compare
from vigil.settings import DEFAULT_END, DEFAULT_START, parse_instant
from vigil.simulator import FaultPlan, Population, SimulatorConfig, serve
from vigil.simulator.faults import KINDS

WINDOW = Window(parse_instant(DEFAULT_START, flag="--start"), parse_instant(DEFAULT_END, flag="--end"))
WEEK_MINUTES = 7 * 1440
WORST_WEIGHT = 120
LEAST_BUDGET = 2 * WORST_WEIGHT
"""A minute must have room for two full pages, or a hanging request stops everything: few users have a shorter week."""

SCALE = 0.1
"""Of the histories' lengths: 30 rows a user on the average, as many as a laptop's disk takes for 100,000 ..."""
WHALE_EVERY, WHALE_ROWS = 1000, 12_000
"""... but one in a thousand has full pages, and more than the exchange still shows."""

BEYOND_REPAIR = ("another", "nan")
"""Faults that asking again does not undo: the table would differ from the truth, and rightly so."""

TIMEOUT_SECONDS = 0.5
HANG_SECONDS = 5.0  # longer than anybody waits
DRIP_SECONDS = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--fault-share", type=float, default=0.05, help="of all requests, kinds alike (default: 0.05)")
    parser.add_argument("--minutes", type=float, default=15.0, help="what the week is to take (default: 15)")
    parser.add_argument(
        "--columns", action="store_true", help="compare every column with the truth, 100 users a second"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plan = make_plan(options.users, options.fault_share, options.minutes, options.seed)
    print(plan, flush=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vigil-soak-")))
        dsn = os.environ.get("VIGIL_DATABASE_URL") or stack.enter_context(embedded_postgres(directory / "postgres"))
        url = stack.enter_context(exchange(plan.config))
        return asyncio.run(soak(plan, dsn, url, directory, columns=options.columns))


@dataclass(frozen=True)
class Plan:
    """The week's arithmetic. Weight, rows, users; a minute is the exchange's."""

    config: SimulatorConfig
    rows: int
    weight: int
    """What the population costs, faults included."""
    minutes: float

    def __str__(self) -> str:
        config = self.config
        return (
            f"{config.users:,} users, {self.rows:,} rows, about {self.weight:,} weight with "
            f"{sum(config.faults.chances.values()):.0%} faults of {len(config.faults.chances)} kinds\n"
            f"at 1,200 weight a minute {self.weight / 1200 / 1440:.2f} days; "
            f"here {config.weight_per_minute:,} a minute, so {self.minutes / 1440:.2f} days, "
            f"each minute in {config.period_seconds * 1000:.1f} ms"
        )


def make_plan(users: int, fault_share: float, minutes: float, seed: int) -> Plan:
    lengths = dict.fromkeys(range(0, users, WHALE_EVERY), WHALE_ROWS)
    population = Population(users, seed=seed, scale=SCALE, lengths=lengths)
    rows = [min(population.length(index), 10_000) for index in range(users)]
    least = sum(20 * (one // 2000 + 1) + math.ceil(one / 20) for one in rows)
    weight = round(least * (1 + fault_share))
    budget = max(LEAST_BUDGET, round(weight / WEEK_MINUTES))
    period = minutes * 60 * budget / weight
    kinds = [kind for kind in KINDS if kind not in BEYOND_REPAIR]
    faults = FaultPlan(
        dict.fromkeys(kinds, fault_share / len(kinds)),
        seed=seed,
        storm_seconds=period,
        drip_seconds=DRIP_SECONDS,
        hang_seconds=HANG_SECONDS,
    )
    config = SimulatorConfig(
        users=users,
        seed=seed,
        scale=SCALE,
        lengths=lengths,
        weight_per_minute=budget,
        period_seconds=period,
        faults=faults,
    )
    return Plan(config, sum(rows), weight, weight / budget)


@contextmanager
def exchange(config: SimulatorConfig) -> Iterator[str]:
    """The simulated exchange in a process of its own; yields its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(config, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(config: SimulatorConfig, pipe: Pipe) -> None:
    asyncio.run(serve(config, "127.0.0.1", 0, pipe.send))


async def soak(plan: Plan, dsn: str, url: str, directory: Path, *, columns: bool) -> int:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VIGIL_", "HL_API_"))}
    env |= {
        "VIGIL_DATABASE_URL": dsn,
        "VIGIL_API_URL": url,
        "VIGIL_WEIGHT_PER_MINUTE": str(plan.config.weight_per_minute),
        "VIGIL_WEIGHT_PERIOD_SECONDS": str(plan.config.period_seconds),
        "VIGIL_REQUEST_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        "VIGIL_RETRY_MAX_SECONDS": "0.2",
        "VIGIL_LEASE_SECONDS": "10",
    }
    users = directory / "users.txt"
    users.write_text("\n".join(ask(f"{url.removesuffix('/info')}/truth?limit={plan.config.users}")["addresses"]))
    await finished("vigil", "users", "add", "--users-file", str(users), env=env)
    began = time.monotonic()
    samples, code, said = await watched_run(dsn, directory / "told.jsonl", env)
    took = time.monotonic() - began
    days = took / plan.config.period_seconds / 1440
    print(f"\n{took:.0f} s, {days:.2f} simulated days; exit {code}: {said[-1] if said else ''}")
    stats = ask(f"{url.removesuffix('/info')}/stats")
    print(f"requests {stats['requests']:,}, weight {stats['weight_spent']:,}, 429s {stats['throttled']:,}")
    print(f"faults {sum(stats['faults'].values()):,}: {json.dumps(stats['faults'])}")
    print_samples(samples)
    if code == EXIT_SOME_USERS_FAILED:  # those that a 422 was answered for, which no run asks twice
        print(f"\nretry: {await finished('vigil', 'retry', env=env)}")
        code = EXIT_DONE
    return await verdict(plan, dsn, url, code, columns=columns)


async def watched_run(dsn: str, told: Path, env: dict[str, str]) -> tuple[list[Sample], int, list[str]]:
    """Run to the end, a sample a second; the samples, the exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.probe", str(told), "run"), env=env, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    ended = asyncio.create_task(process.stderr.read())
    watch = Watch(process.pid, told)
    try:
        async with session(dsn) as connection:
            while not ended.done():
                watch.look(**await database_side(connection))
                await asyncio.wait({ended}, timeout=1)
        return watch.samples, await process.wait(), (await ended).decode().splitlines()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def database_side(connection: Connection) -> dict[str, int]:
    """What the database sees of the run."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM backfill_progress WHERE completed) AS users_done, count(*) AS sessions,"
        " pg_database_size(current_database()) / 1048576 AS database_mb FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name ~ '^vigil-backfill [0-9]'"
    )
    assert row is not None
    return dict(row)


async def verdict(plan: Plan, dsn: str, url: str, code: int, *, columns: bool) -> int:
    """What is left of the run in the database, and whether the table is the truth."""
    queries = {
        "sessions left open": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name ~ '^vigil-backfill [0-9]'",
        "workers left": "SELECT count(*) FROM backfill_workers",
        "users not completed": "SELECT count(*) FROM backfill_progress WHERE NOT completed",
        "gaps": "SELECT count(*) FROM backfill_gaps",
        "rejected rows": "SELECT count(*) FROM rejected_fills",
        "users whose fills_count is wrong": "SELECT count(*) FROM backfill_progress LEFT JOIN"
        " (SELECT user_address, count(*) AS present FROM fills GROUP BY user_address) AS f USING (user_address)"
        " WHERE fills_count <> coalesce(present, 0)",
    }
    left = {}
    async with session(dsn) as connection:
        for name, query in queries.items():
            left[name] = await connection.fetchval(query, timeout=600)
        failed = await connection.fetch(
            "SELECT last_error, count(*) AS users FROM backfill_progress WHERE failed_at IS NOT NULL GROUP BY 1"
        )
    print("\n" + ", ".join(f"{name}: {count}" for name, count in left.items()))
    for row in failed:
        print(f"failed: {row['users']} users: {row['last_error']}")
    equal = await (every_column(dsn, url) if columns else every_user(plan, dsn))
    return 0 if code == 0 and equal and not any(left.values()) else 1


async def every_user(plan: Plan, dsn: str) -> bool:
    """Whether each user has as many rows as the exchange would show, at the same times in all."""
    config = plan.config
    population = Population(config.users, seed=config.seed, scale=config.scale, lengths=config.lengths)
    async with session(dsn) as connection:
        records = await connection.fetch(
            "SELECT user_address, count(*) AS rows, sum((extract(epoch FROM time) * 1000)::bigint)::text AS times"
            " FROM fills GROUP BY user_address",
            timeout=600,
        )
    found = {record["user_address"]: (record["rows"], int(record["times"])) for record in records}
    differing = []
    for index, address in enumerate(population.addresses()):
        times = population.history(index).times
        within_reach = times[max(0, len(times) - config.retention_rows) :]
        expected = within_reach[bisect_left(within_reach, WINDOW.start_ms) : bisect_left(within_reach, WINDOW.end_ms)]
        if found.pop(address, (0, 0)) != (len(expected), sum(expected)):
            differing.append(address)
    print(
        f"rows and times of all {config.users:,} users: {len(differing)} differ {differing[:5]}, {len(found)} strangers"
    )
    return not differing and not found


async def every_column(dsn: str, url: str) -> bool:
    """Whether the table is the exchange's truth, column by column."""
    found = await compare(dsn, url, WINDOW)
    print(
        f"{found.rows:,} rows of {found.users:,} users: missing {found.missing}, extra {found.extra}", *found.examples
    )
    return found.equal


async def finished(*module_and_arguments: str, env: dict[str, str]) -> str:
    """Run a module to its end and return the last line it said. Raises: RuntimeError with all of it when it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *module_and_arguments), env=env, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(said.decode())
    return said.decode().strip().rpartition("\n")[2]


def ask(url: str) -> dict[str, Any]:
    with urlopen(url) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


if __name__ == "__main__":
    sys.exit(main())
