"""Is the exchange's budget used, and by whom else how well?

    python -m benchmarks.budget [--quick] [--only virtual|users|baselines]

Three tables.

1. `virtual`: vigil's limiter against a model of the exchange that refuses whatever *any* of the windows
   (sliding, fixed, bucket) would refuse, so one run judges all three; in virtual time, the same on every machine. By
   round trip, pages and coroutines: the share of the budget used once warm, beside the ceiling, and
   answers 429. The ceiling for who can't see when in a round trip it was charged: what is asked again is asked a
   minute and a round trip later, 60 / (60 + round trip), of which small pages of 1-20 rows can fill
   57 x 21 / 1200. For clients other than vigil in the same setting: `benchmarks.limiter`.
2. `users`: weight spent per user as a ratio to the least for its history (20 a page of 2000 and 1 for every
   20 rows), by the real walk: the overlap of pages, and second looks at pages of a round size.
3. `baselines`: whole clients (`benchmarks.baselines`) over sockets against the simulated exchange with a short
   minute; every one gets a new exchange with the same users. `share` is the share of the rows within
   reach that came home, `by tid` what a unique index on `tid` alone would have left of them. A short
   minute makes each millisecond of this machine weigh more: `used` of vigil is lower here than in the first table.
   Needs the extra `bench` for the last two.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.baselines.contest import CLIENTS, Standing, contest, exchange
from benchmarks.fleet import real
from benchmarks.fleet.orders import by_chance
from benchmarks.fleet.outcome import least_weight
from benchmarks.fleet.population import POPULATIONS, Users, draw
from benchmarks.limiter import BUDGET, PAGES, PERIOD, latencies
from tests.kit.server_model import ServerModel, TooManyRequests, every_window
from tests.kit.virtual_time import run_virtual
from vigil.limiter import BASE_WEIGHT, WeightLimiter

ROUND_TRIPS = (0.02, 0.05, 0.1, 0.25, 0.5)
COROUTINES = (1, 8, 64)
LONGEST_HISTORY = 12_800


@dataclass(frozen=True, slots=True)
class Use:
    used: float
    refused: int
    ceiling: float


def use_of_budget(pages: str, coroutines: int, round_trip: float, minutes: int, warm: int) -> Use:
    """Of the limiter, between the minutes `warm` and `minutes`, judged by all window models at once."""
    rng, server = random.Random(1), ServerModel(every_window(BUDGET, PERIOD))
    trips = latencies(round_trip)

    async def read() -> None:
        limiter, loop = WeightLimiter(BUDGET, PERIOD), asyncio.get_running_loop()

        async def page_after_page() -> None:
            while loop.time() < minutes * PERIOD:
                async with limiter.request() as ticket:
                    try:
                        ticket.weight = await server.ask(PAGES[pages](rng), next(trips))
                        ticket.answered = True
                    except TooManyRequests:
                        ticket.weight = BASE_WEIGHT
                        limiter.pause(ticket)

        async with asyncio.TaskGroup() as group:
            for _ in range(coroutines):
                group.create_task(page_after_page())

    run_virtual(read())
    whole = 57 * 21 / BUDGET if pages == "small" else 1.0
    used = server.used(BUDGET, PERIOD, warm * PERIOD, minutes * PERIOD)
    return Use(used, server.refused, whole * PERIOD / (PERIOD + round_trip))


def virtual(minutes: int = 40, warm: int = 12) -> None:
    print(f"\nshare of the budget used, minutes {warm} to {minutes} of virtual time, under all window models at once")
    print(f"{'round trip':>10} {'pages':6} {'ceiling':>8} " + " ".join(f"{n:>5} readers" for n in COROUTINES), end="")
    print("   429s")
    for round_trip, pages in itertools.product(ROUND_TRIPS, PAGES):
        row = [use_of_budget(pages, coroutines, round_trip, minutes, warm) for coroutines in COROUTINES]
        print(f"{round_trip * 1000:7.0f} ms {pages:6} {row[0].ceiling:8.4f} ", end="")
        print(" ".join(f"{one.used:13.4f}" for one in row), f"  {sum(one.refused for one in row):4}", flush=True)


def weight_of(rows: int) -> int:
    """What the real walk spends on one user with so many fills."""
    users = Users(reach=float("inf"), window=[rows], after=[0.0], pace=[0.0])
    return real.simulate(users, by_chance(users, 0.0), 1, readers=1).weight


def users() -> None:
    ratios = {rows: weight_of(rows) / least_weight(rows) for rows in lengths_to_try()}
    worst = max(ratios, key=lambda rows: ratios[rows])
    print(f"\nweight of a user as a ratio to the least for its history, {len(ratios):,} lengths up to {max(ratios):,}")
    mean = sum(ratios.values()) / len(ratios)
    print(f"of single users: mean {mean:.4f}, worst {ratios[worst]:.4f} ({worst:,} fills), ", end="")
    print(f"10,000 fills {ratios[10_000]:.4f}")
    for name, habits in POPULATIONS.items():
        population = draw(20_000, habits)
        rows = [population.rows(user) for user in range(len(population))]
        weights = {one: weight_of(one) for one in set(rows)}
        ratio = sum(map(weights.__getitem__, rows)) / sum(map(least_weight, rows))
        above = sum(weights[one] > 1.02 * least_weight(one) for one in rows) / len(rows)
        print(f"of all '{name}' users together {ratio:.4f}; single ones above 1.02: {above:.2%}", flush=True)


def lengths_to_try() -> Iterator[int]:
    yield from range(0, LONGEST_HISTORY, 37)
    for whole in range(500, LONGEST_HISTORY, 100):  # what may be a cap, and its neighbours
        yield from (whole - 1, whole, whole + 1)


def baselines(people: int, period_seconds: float) -> dict[str, Standing]:
    print(f"\n{people} users of a simulated exchange, its minute lasting {period_seconds:g} s")
    print(
        f"{'client':18} {'minutes':>8} {'requests':>9} {'weight':>8} {'used':>6} {'429s':>6} {'share':>8} {'by tid':>8}"
    )
    found = {}
    for name, client in CLIENTS.items():
        with exchange(people, period_seconds) as place:
            try:
                one = found[name] = asyncio.run(contest(client, place))
            except ModuleNotFoundError as error:
                print(f"{name:18} not installed: {error.name} (pip install 'vigil-backfill[bench]')")
                continue
        print(f"{name:18} {one.minutes:8.1f} {one.requests:9,} {one.weight:8,} {one.used:6.3f} ", end="")
        print(f"{one.refused:6,} {one.share:8.2%} {one.by_tid:8.2%}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer users, fewer minutes")
    parser.add_argument("--only", choices=("virtual", "users", "baselines"))
    parser.add_argument("--users", type=int, help="of the baselines (default: 300; quick: 60)")
    parser.add_argument("--period-seconds", type=float, default=6.0, help="the short minute (default: 6)")
    options = parser.parse_args()
    if options.only in (None, "virtual"):
        virtual(*((20, 12) if options.quick else (40, 12)))
    if options.only in (None, "users"):
        users()
    if options.only in (None, "baselines"):
        baselines(options.users or (60 if options.quick else 300), options.period_seconds)


if __name__ == "__main__":
    main()
