"""Gathering the evidence of verdicts, against reading the same rows of the same users for a count and a sum.

The baseline is what any question about a user's rows costs: `count(*), sum(sz)`, user by user along the
key's index. Both go through all users in batches, as they finish in a run. Three populations of the
same size: chains that hold (almost everybody), one fill missing in every chain (nobody's: the worst
case, since each broken coin is read and followed a second time), and no row with a `seq` (all from
archives). Rows lie by user and spread over 30 months. Database: VIGIL_DATABASE_URL (an empty one), or an
embedded Postgres, which has no hypertables.

    python -m benchmarks.verdict [USERS [ROWS_OF_EACH]]
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections import Counter
from itertools import takewhile
from pathlib import Path

from vigil.db import Connection, session, sql
from vigil.embedded import embedded_postgres
from vigil.pipeline import prepare_database
from vigil.verdict import CoinEvidence, UserFacts, Verdict, verdict

USERS, ROWS = 2000, 1000
COINS = 5
BATCH_USERS = 100
ALL_ROWS = 100_000_000

BASELINE = """
SELECT u.user_address, plain.*
FROM unnest($1::text[]) AS u (user_address)
CROSS JOIN LATERAL (
    SELECT count(*), sum(sz) FROM fills WHERE fills.user_address = u.user_address
) AS plain
"""

POPULATE = """
INSERT INTO fills (
    user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed, fee_token,
    tid, seq
)
SELECT
    user_address, timestamptz '2023-01-01' + (n * 912 / $2 * interval '1 day') + n % 7 * interval '1 hour'
    + n * interval '1 ms', coin, CASE WHEN sz > 0 THEN 'B' ELSE 'A' END, 100.5, abs(sz),
    sum(sz) OVER (PARTITION BY user_address, coin ORDER BY n) - sz, 0, 0.105, 'Open Long',
    '0x' || md5(n::text) || md5(user_address), n, true, 'USDC', n, 0
FROM (
    SELECT
        '0x' || lpad(to_hex(u), 40, '0') AS user_address, n, 'COIN' || n % $3 AS coin,
        (CASE WHEN n / $3 % 2 = 0 THEN 1 ELSE -1 END) * (1 + u * n % 900)::numeric / 1000 AS sz
    FROM generate_series(1, $1::int) AS u, generate_series(0, $2::int - 1) AS n
) AS made
ORDER BY 1, 2
"""

PLANT_HOLES = "DELETE FROM fills WHERE oid BETWEEN $1::bigint AND $1::bigint + $2::bigint - 1"
FORGET_ORDER = "UPDATE fills SET seq = NULL"


def main() -> None:
    users, rows = (int(given) for given in (sys.argv[1:] + [str(USERS), str(ROWS)][len(sys.argv) - 1 :])[:2])
    url = os.environ.get("VIGIL_DATABASE_URL")
    if url:
        asyncio.run(measure(url, users, rows))
        return
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as directory, embedded_postgres(Path(directory)) as dsn:
        asyncio.run(measure(dsn, users, rows))


async def measure(dsn: str, users: int, rows: int) -> None:
    await prepare_database(dsn)
    async with session(dsn) as connection:
        if await connection.fetchval("SELECT EXISTS (SELECT FROM fills)"):
            raise SystemExit("this database holds fills; give an empty one")
        try:
            await connection.execute(POPULATE, users, rows, COINS)
            await connection.execute("ANALYZE fills")
            print(f"{users * rows:,} rows, {users:,} users, {COINS} coins each")
            await compare(connection, users, "every chain holds")
            print(f"  plan: {await plan_of(connection, users)}")
            await connection.execute(FORGET_ORDER)
            await connection.execute("VACUUM ANALYZE fills")
            await compare(connection, users, "no row tells its order")
            await connection.execute(PLANT_HOLES, rows // 2, COINS)
            await connection.execute("VACUUM ANALYZE fills")
            await compare(connection, users, "every chain is broken")
        finally:
            await connection.execute("TRUNCATE fills")


async def compare(connection: Connection, count: int, what: str) -> None:
    """Both ways twice, alternating; the better of each, since the first may find a cold cache."""
    addresses = [f"0x{number:040x}" for number in range(1, count + 1)]
    batches = [addresses[at : at + BATCH_USERS] for at in range(0, count, BATCH_USERS)]
    plain, ours, judging = [], [], []
    words: Counter[Verdict] = Counter()
    for _ in range(2):
        plain.append(await clock(connection, BASELINE, batches))
        ours.append(await clock(connection, sql("verdict_evidence"), batches))
        started = time.perf_counter()
        words = await judge(connection, batches)
        judging.append(time.perf_counter() - started)
    rows = await connection.fetchval("SELECT count(*) FROM fills")
    baseline, evidence = min(plain), min(ours)
    whole = min(judging)
    print(f"{what}: {', '.join(f'{users:,} {word}' for word, users in words.items())}")
    print(f"  count and sum  {baseline / rows * 1e6:6.2f} s a million rows")
    print(f"  evidence       {evidence / rows * 1e6:6.2f} s a million rows, {evidence / baseline:.1f} times that")
    print(f"  with verdicts  {whole / rows * 1e6:6.2f} s a million rows, {whole / baseline:.1f} times that")
    print(f"  {ALL_ROWS:,} rows at that rate, on one connection: {whole / rows * ALL_ROWS / 60:.0f} min")


async def clock(connection: Connection, statement: str, batches: list[list[str]]) -> float:
    started = time.perf_counter()
    for batch in batches:
        await connection.fetch(statement, batch)
    return time.perf_counter() - started


async def judge(connection: Connection, batches: list[list[str]]) -> Counter[Verdict]:
    """The evidence once more, and the verdicts that follow from it."""
    words: Counter[Verdict] = Counter()
    for batch in batches:
        known: dict[str, list[CoinEvidence]] = {user: [] for user in batch}
        for record in await connection.fetch(sql("verdict_evidence"), batch):
            columns = dict(record)
            known[columns.pop("user_address")].append(CoinEvidence(**columns))
        for user, evidence in known.items():
            words[verdict(UserFacts(user, True, 0, 2**42, slices_read=True), evidence).verdict] += 1
    return words


async def plan_of(connection: Connection, users: int) -> str:
    """The nodes of the pass over all rows, outermost first; the scans of the chunks are counted."""
    batch = [f"0x{number:040x}" for number in range(1, min(users, BATCH_USERS) + 1)]
    explained = await connection.fetch("EXPLAIN (ANALYZE, COSTS off, TIMING off) " + sql("verdict_evidence"), batch)
    lines = [row[0] for row in explained]
    begin = next(at for at, line in enumerate(lines) if line.strip() == "CTE listed")
    depth = _depth(lines[begin])
    nodes: Counter[str] = Counter()
    for line in takewhile(lambda line: _depth(line) > depth, lines[begin + 1 :]):
        if found := re.search(r"-> +(.+?)(?: using .*| on .*)? \(", line):
            nodes[found[1]] += 1
    shape = " > ".join(node if times == 1 else f"{times} x {node}" for node, times in nodes.items())
    spilled = sum("Disk:" in line for line in lines)
    return f"{shape}; sorts on disk: {spilled}"


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


if __name__ == "__main__":
    main()
