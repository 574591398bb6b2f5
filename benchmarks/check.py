"""`make bench-check`: has anything become slower, or dearer, than it was recorded to be?

    python -m benchmarks.check                  measure quickly, compare, name what fell; exits with 1 if anything did
    python -m benchmarks.check --record         measure and write benchmarks/recorded.json, with this machine in it
    python -m benchmarks.check --no-database    only what is the same on every machine

Compared are ratios inside one run, which say more than seconds on another machine; the tolerance of each stands
beside it in the file. Virtual ones repeat to the last digit, so theirs are narrow; those with a
database do not, so theirs are wide, and what fell is measured once more before it is named. `rates` are
fills a second on the machine that is described, for reading, not compared. Not part of the gate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.budget import use_of_budget, weight_of
from benchmarks.fleet.__main__ import run
from benchmarks.fleet.outcome import least_weight
from benchmarks.fleet.population import POPULATIONS, draw
from benchmarks.limiter import PAGES

RECORDED = Path(__file__).with_name("recorded.json")
NARROW, WIDE = 0.003, 0.25
"""Tolerances, as shares of the recorded value: of what repeats exactly, and of what a noisy machine measures."""
INGEST_ROWS = 60_000
LINE = re.compile(r"^(\S.*?)\s{2,}(\d+\.\d+)\b.*?\(([\d,]+) rows/s")


class Ratio(NamedTuple):
    """One figure; `better` is "more" or "less", `tolerance` the share of the value that may be missing."""

    value: float
    better: str
    tolerance: float


Ratios = dict[str, Ratio]


def fallen(recorded: Mapping[str, Ratio], measured: Mapping[str, Ratio]) -> dict[str, str]:
    """What is worse than recorded beyond its tolerance, or is not measured any more: name and how much."""
    found = {}
    for name, was in recorded.items():
        now = measured.get(name)
        if now is None:
            found[name] = "is not measured any more"
            continue
        worst = was.value * (1 + was.tolerance if was.better == "less" else 1 - was.tolerance)
        if now.value > worst if was.better == "less" else now.value < worst:
            found[name] = f"{now.value:.4g}, was {was.value:.4g} (tolerated: {worst:.4g})"
    return found


def virtual_ratios() -> Ratios:
    """Of the limiter, the walk and a fleet, in virtual time."""
    found = {}
    for pages in PAGES:
        use = use_of_budget(pages, 8, 0.25, minutes=24, warm=12)
        found[f"budget used of its ceiling, {pages} pages"] = Ratio(use.used / use.ceiling, "more", NARROW)
        found[f"answers 429 and one, {pages} pages"] = Ratio(1.0 + use.refused, "less", 0.0)
    users = draw(20_000, POPULATIONS["middle"])
    fleet = run(users, "vigil", 10)
    found["fleet of 10: budget used"] = Ratio(fleet.used, "more", NARROW)
    found["fleet of 10: weight of the least"] = Ratio(
        fleet.weight / sum(least_weight(users.rows(user)) for user in range(len(users))), "less", NARROW
    )
    found["a user of 10,000 fills: weight of the least"] = Ratio(
        weight_of(10_000) / least_weight(10_000), "less", NARROW
    )
    return found


def database_ratios() -> tuple[Ratios, dict[str, float]]:
    """Of `benchmarks.ingest`, run as people run it: ratios, and fills a second."""
    command = [sys.executable, "-m", "benchmarks.ingest", str(INGEST_ROWS)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return read_ingest(told)


def read_ingest(told: str) -> tuple[Ratios, dict[str, float]]:
    """The lines `name  ratio (N rows/s ...)`. Raises: ValueError when there are none."""
    lines = [match for line in told.splitlines() if (match := LINE.match(line))]
    if not lines:
        raise ValueError("benchmarks.ingest told no ratios")
    ratios = {f"ingest: {match[1]}": Ratio(float(match[2]), "more", WIDE) for match in lines}
    return ratios, {f"ingest: {match[1]}": float(match[3].replace(",", "")) for match in lines}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (named := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        cpu = named[1]
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "database": "VIGIL_DATABASE_URL" if os.environ.get("VIGIL_DATABASE_URL") else "embedded Postgres",
    }


def load(path: Path = RECORDED) -> dict[str, Ratio]:
    return {name: Ratio(**one) for name, one in json.loads(path.read_text("utf-8"))["ratios"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--no-database", action="store_true")
    options = parser.parse_args()
    measured, rates = virtual_ratios(), dict[str, float]()
    if not options.no_database:
        ingest, rates = database_ratios()
        measured |= ingest
    if options.record:
        ratios = {name: {**one._asdict(), "value": round(one.value, 5)} for name, one in measured.items()}
        whole = {"machine": machine(), "ratios": ratios, "rates": rates}
        RECORDED.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
        print(f"{len(ratios)} ratios recorded in {RECORDED.name}")
        return 0
    recorded = {name: one for name, one in load().items() if not (options.no_database and name.startswith("ingest: "))}
    fell = fallen(recorded, measured)
    if any(name.startswith("ingest: ") for name in fell):
        again = {**measured, **database_ratios()[0]}
        fell = {name: told for name, told in fallen(recorded, again).items() if name in fell}
    for name in recorded:
        value = f"{measured[name].value:.4f}" if name in measured else "-"
        print(f"{'FELL' if name in fell else 'ok':5} {name:52} {value:>8} {recorded[name].value:8.4f}")
    for name, told in fell.items():
        print(f"{name}: {told}", file=sys.stderr)
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
