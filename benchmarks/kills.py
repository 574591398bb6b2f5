"""A hundred `kill -9` over one run of three workers: is the table the truth, and was nobody claimed twice at a time?

    python -m benchmarks.kills [--kills 100] [--workers 3] [--users 3000] [--lanes both]

The workers are real `vigil-backfill run` processes against a simulated exchange; each dead one is
replaced at once. The moments are drawn by `--seed`: from the first millisecond of a process to deep
inside of the run, now and then all at once (`tests/kit/mortals.py`). What is checked, and how: rows,
column by column, against the simulator's truth; `fills_count` against the rows; who held whom and who
wrote what, from a ledger that triggers keep inside the workers' own transactions
(`tests/kit/ledger.py`); that the exchange was asked for every user. `one`: all workers behind one address,
whose budget they share; `own`: an address each. Database: the server of VIGIL_DATABASE_URL, on which
databases of random names are made and dropped again, or an embedded Postgres in a temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from statistics import median

from tests.kit.database import Choice, serving
from tests.kit.killed_run import Aftermath, killed_run

SECONDS_A_KILL = 1.2
"""A process needs about half of that to become a worker, on a core of its own."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--lanes", choices=("one", "own", "both"), default="both")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lanes = {"one": ["here"] * options.workers, "own": [f"address {i}" for i in range(options.workers)]}
    url = os.environ.get("VIGIL_DATABASE_URL")
    wrong = 0
    with serving(Choice(url, "given" if url else "embedded", timescaledb=False)) as server:
        for name in lanes if options.lanes == "both" else [options.lanes]:
            with server.database(migrated=True) as database:
                run = killed_run(
                    database,
                    lanes[name],
                    users=options.users,
                    kills=options.kills,
                    seconds=options.kills * SECONDS_A_KILL,
                    seed=options.seed,
                )
                wrong += report(name, options.kills, asyncio.run(run))
    return 1 if wrong else 0


def report(lanes: str, kills: int, after: Aftermath) -> bool:
    """Print what came out; whether anything is wrong."""
    ages = [death.age_seconds for death in after.deaths]
    print(f"\n{len(after.deaths)} kills, {after.seconds:.0f} s, lanes: {lanes}")
    print(f"  died at the age of {min(ages) * 1000:.0f} ms to {max(ages):.1f} s, median {median(ages):.2f} s")
    print(f"  of these before they were workers {after.died_unborn}, with users in hand {after.died_at_work}")
    print(f"  users left behind and taken over {sum(life.orphans for life in after.lives)}")
    print(f"  weight spent {after.weight_spent:,} on histories that cost {after.whole_weight:,} at most if read once")
    print(f"  answers 429: {after.throttled}")
    found = after.found
    print(f"  {found.rows:,} rows of {found.users:,} users compared: missing {found.missing}, extra {found.extra}")
    faults = {
        "exit codes of the last workers": [end.err for end in after.ends if end.code != 0],
        "differences": found.examples,
        "rules of the ledger broken": after.broken_rules,
        "left behind": after.blemishes,
        "never asked for": sorted(after.never_asked_for)[:3],
        "workers that nobody started": after.strangers,
        "kills missing, the run was over": kills - len(after.deaths),
    }
    for name, fault in faults.items():
        print(f"  {name}: {fault or 'none'}")
    return any(faults.values())


if __name__ == "__main__":
    sys.exit(main())
