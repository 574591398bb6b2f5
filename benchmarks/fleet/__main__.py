"""`python -m benchmarks.fleet`: see the package."""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.fleet import model, real
from benchmarks.fleet.orders import ORDERS
from benchmarks.fleet.outcome import PER_HOUR, Outcome, least_weight
from benchmarks.fleet.population import POPULATIONS, Habits, Users, draw
from benchmarks.picture import Chart, Line

ADDRESSES = (1, 3, 10, 30, 100)
PICTURES = Path(__file__).parents[2] / "docs" / "scale"
TABLES = ("real", "time", "database", "tail", "saved")
RECORDED = Path(__file__).parents[1] / "recorded.json"
COMMITTED = "ingest: pages, JSON to committed rows"
FULL_PAGE_FILLS = 20_000 / 60
"""A second and address: ten pages of 2,000 a minute."""
PART_ROWS = 20_000
"""The parts in which a long history is split by time: what an address reads in a minute."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the users")
    parser.add_argument("--pictures", action="store_true", help="draw docs/scale/*.svg too")
    parser.add_argument("--lengths", type=Path, help="a file of fills a user, one number a line, to draw from")
    parser.add_argument("--only", choices=TABLES, help="one of the tables")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lengths = [int(line) for line in options.lengths.read_text().split()] if options.lengths else []
    bench = Bench(100 if options.quick else 1, lengths, options.seed, PICTURES if options.pictures else None)
    for name in TABLES:
        if options.only in (None, name):
            getattr(bench, name)()


class Bench:
    """The tables, one a method; `shrink` divides the number of users."""

    def __init__(self, shrink: int, lengths: Sequence[int], seed: int, pictures: Path | None) -> None:
        self.sizes = (100_000 // shrink, 1_000_000 // shrink)
        self.lengths, self.seed, self.pictures = lengths, seed, pictures

    def users(self, size: int, habits: Habits) -> Users:
        gc.collect()
        return draw(size, habits, self.seed, self.lengths)

    def real(self) -> None:
        """vigil's own code, and the model beside it."""
        print("\nvigil's own limiter, pager and walk in virtual time, and the model; 'middle' users, vigil's order")
        print(f"{'users':>9} {'addresses':>9} {'':6} {'hours':>9} {'requests':>9} {'weight':>11} {'429s':>5} ", end="")
        print(f"{'used':>6} {'of the least':>12} {'us a request':>12}")
        for size, addresses in ((self.sizes[0], 1), (self.sizes[0], 30), (self.sizes[1], 100)):
            users = self.users(size, POPULATIONS["middle"])
            least = sum(least_weight(users.rows(user)) for user in range(size))
            for name, simulate in (("real", real.simulate), ("model", model.simulate)):
                order, started = ORDERS["vigil"](users, least / PER_HOUR / addresses), time.perf_counter()
                found = simulate(users, order, addresses)
                each = (time.perf_counter() - started) / found.requests * 1e6
                print(
                    f"{size:9,} {addresses:9} {name:6} {found.hours:9.3f} {found.requests:9,} {found.weight:11,}",
                    end="",
                )
                print(f" {found.refused:5} {found.used:6.3f} {found.weight / least:12.4f} {each:12.0f}", flush=True)

    def time(self) -> None:
        """Time to finish, and fills a second, by users and addresses."""
        hours, rates = [], []
        print("\ntime to finish; vigil's order, 8 readers an address")
        print(f"{'users':>9} {'population':10} {'fills':>13} {'addresses':>9} {'hours':>9} {'used':>6} ", end="")
        print(f"{'tail min':>8} {'idle':>6} {'fills/s':>8}")
        for number, (name, habits) in enumerate(POPULATIONS.items()):
            for size in self.sizes:
                users = self.users(size, habits)
                points, fills = [], []
                for addresses in ADDRESSES:
                    found = run(users, "vigil", addresses)
                    rate = found.saved / found.seconds
                    print(
                        f"{size:9,} {name:10} {found.saved:13,} {addresses:9} {found.hours:9.2f} {found.used:6.3f} ",
                        end="",
                    )
                    print(f"{found.tail_minutes:8.1f} {found.idle:6.3f} {rate:8,.0f}", flush=True)
                    points.append((addresses, found.hours))
                    fills.append((addresses, rate))
                label = f"{name}, {size:,}"
                hours.append(Line(label, points, dashed=size == self.sizes[0], colour=number))
                if size == self.sizes[1]:
                    rates.append(Line(name, fills, colour=number))
        self.draw("time", Chart("Hours until everybody is read", "addresses", "hours", hours))
        rates.append(Line("full pages only", [(n, n * FULL_PAGE_FILLS) for n in ADDRESSES], dashed=True, colour=5))
        self.draw("rows", Chart("Fills a second that a fleet brings", "addresses", "fills/s", rates))

    def database(self) -> None:
        """How many addresses one Postgres keeps up with, by the rate in benchmarks/recorded.json."""
        recorded = json.loads(RECORDED.read_text("utf-8"))
        rate = recorded["rates"][COMMITTED]
        print(f"\nfills a second that an address brings, and how many {rate:,.0f} committed rows/s are")
        print(f"(recorded on {recorded['machine']['cores']} cores, {recorded['machine']['cpu']})")
        kinds = {"full pages": FULL_PAGE_FILLS}
        for name, habits in POPULATIONS.items():
            users = self.users(self.sizes[0], habits)
            rows = [users.rows(user) for user in range(len(users))]
            kinds[name] = sum(rows) / sum(map(least_weight, rows)) * PER_HOUR / 3600
        for name, fills in sorted(kinds.items(), key=lambda kind: kind[1]):
            print(f"{name:12} {fills:6.0f} fills/s   {rate / fills:6.0f} addresses")

    def tail(self) -> None:
        """Who waits for whom at the end."""
        size, addresses = self.sizes[0], 100
        print(f"\nthe end, by order: {size:,} 'middle' users, {addresses} addresses")
        print(f"{'fills within reach':20} {'readers':>7} {'order':22} {'hours':>7} {'used':>6} ", end="")
        print(f"{'tail min':>8} {'idle':>6}")
        ends: list[Line] = []
        for reach, label in ((10_000, "10,000"), (31_000, "31,000"), (math.inf, "all (another host)")):
            users = self.users(size, replace(POPULATIONS["middle"], reach=reach))
            for readers in (8, 64):
                for order in (*ORDERS, "chance, split by time", "vigil, split by time"):
                    name, _, split = order.partition(", ")
                    found = run(users, name, addresses, readers=readers, split=bool(split))
                    print(f"{label:20} {readers:7} {order:22} {found.hours:7.3f} {found.used:6.3f} ", end="")
                    print(f"{found.tail_minutes:8.1f} {found.idle:6.3f}", flush=True)
                    if math.isinf(reach) and readers == 8 and order != "vigil, split by time":
                        ends.append(Line(order, busy(found), colour=len(ends)))
        title = "Addresses at work in the last hour, a host that keeps every fill"
        self.draw("tail", Chart(title, "minutes, the end on the right", "addresses", ends, log_x=False, log_y=False))

    def saved(self) -> None:
        """History that is lost before its user's turn, by order: what counts is the hours, so users per address."""
        lost: dict[str, list[tuple[float, float]]] = {order: [] for order in ORDERS}
        print("\nfills lost while their users waited, of those within reach at the start; 'middle' users")
        print(f"{'users':>9} {'addresses':>9} {'hours':>9}  " + " ".join(f"{order:>12}" for order in ORDERS))
        fleets = [(self.sizes[1], 1), (self.sizes[1], 3), *((self.sizes[0], addresses) for addresses in ADDRESSES)]
        for size, addresses in fleets:
            users = self.users(size, POPULATIONS["middle"])
            within = sum(users.rows(user) for user in range(size))
            row = {order: run(users, order, addresses) for order in ORDERS}
            hours = row["vigil"].hours
            for order, found in row.items():
                lost[order].insert(0, (hours, 100 * (1 - found.saved / within)))
            print(f"{size:9,} {addresses:9} {hours:9.1f}  ", end="")
            print(" ".join(f"{points[0][1]:11.3f}%" for points in lost.values()), flush=True)
        lines = [Line(order, points, colour=number) for number, (order, points) in enumerate(lost.items())]
        title = "Fills lost while their users wait"
        self.draw("saved", Chart(title, "hours until everybody is read", "% of those within reach", lines, log_y=False))

    def draw(self, name: str, chart: Chart) -> None:
        if self.pictures is not None:
            chart.save(self.pictures / f"{name}.svg")


def run(users: Users, order: str, addresses: int, *, readers: int = 8, split: bool = False) -> Outcome:
    least_hours = sum(least_weight(rows) for rows in users.window) / PER_HOUR / addresses
    parts = (lambda rows: max(1, rows // PART_ROWS)) if split else None
    return model.simulate(users, ORDERS[order](users, least_hours), addresses, readers=readers, parts=parts)


def busy(found: Outcome, minutes: int = 60) -> list[tuple[float, float]]:
    """How many addresses were at work in each of the last minutes, the last one last."""
    start = found.seconds - minutes * 60
    moments = [start + minutes * 60 * i / 120 for i in range(121)]
    return [((at - start) / 60, sum(end >= at for end in found.ends)) for at in moments]


if __name__ == "__main__":
    main()
