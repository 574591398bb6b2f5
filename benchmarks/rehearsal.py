"""A full-scale rehearsal: thousands of users in scaled time, killed and restarted on the way.

    python -m benchmarks.rehearsal --users 10000 --kills 10

Starts the simulator and the real `vigil-backfill run` as processes, kills the run with SIGKILL at
random moments, lets the last one finish, and compares the whole table with the truth. Prints what
was spent against the least that the histories cost (20 weight a page and 1 for every 20 rows).
Database: VIGIL_DATABASE_URL, which must be empty, or an embedded Postgres in a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--period-seconds", type=float, default=0.4)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="vigil-rehearsal-") as directory, simulator(options) as base:
        environment = {
            "VIGIL_DATA_DIR": str(Path(directory) / "postgres"),
            **os.environ,
            "VIGIL_API_URL": f"{base}/info",
            "VIGIL_WEIGHT_PERIOD_SECONDS": str(options.period_seconds),
        }
        users = Path(directory) / "users.txt"
        users.write_text("\n".join(ask(f"{base}/truth?limit={options.users}")["addresses"]))
        vigil("users", "add", "--users-file", str(users), env=environment)
        started = time.monotonic()
        killed_run(options, environment, rng)
        seconds = time.monotonic() - started
        again = vigil("run", env=environment)
        stats = ask(f"{base}/stats")
        print(f"{seconds:.0f} s, {options.kills} kills; one more run: {again.stderr.strip().splitlines()[-1]}")
        print(f"requests {stats['requests']:,}, weight {stats['weight_spent']:,}, 429s {stats['throttled']:,}")
        print(vigil("status", env=environment).stdout)
        found = subprocess.run(command("compare", base), env=environment, check=False)
    return found.returncode


def killed_run(options: argparse.Namespace, environment: dict[str, str], rng: random.Random) -> None:
    """Run to the end, killing it `kills` times after it has run for a few seconds."""
    kills = 0
    while True:
        run = subprocess.Popen(command("run", "--concurrency", str(options.concurrency)), env=environment)
        try:
            code = run.wait(timeout=rng.uniform(2, 8) if kills < options.kills else None)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
            continue
        if code != 0:
            raise SystemExit(f"the run ended with {code}")
        return


@contextmanager
def simulator(options: argparse.Namespace) -> Iterator[str]:
    """A simulator in a process of its own; yields its base URL."""
    arguments = ["simulate", "--port", "0", "--users", str(options.users), "--scale", str(options.scale)]
    arguments += ["--period-seconds", str(options.period_seconds), "--seed", str(options.seed)]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().removeprefix("VIGIL_API_URL=").removesuffix("/info")
    finally:
        process.terminate()
        process.wait()


def vigil(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=env, check=True, capture_output=True, text=True)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vigil", *arguments]


def ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


if __name__ == "__main__":
    sys.exit(main())
