"""How much of the exchange's budget a client uses, and how often it is refused.

    python -m benchmarks.limiter [--minutes 60]

Measured: one address, 1200 weight a minute, against a model of the exchange's accounting
(`tests/kit/server_model.py`) in virtual time, so the figures depend on no machine and repeat.
The model refuses (429) what does not fit; a round trip takes 250 ms, split anew for each
request between the way there, serving and the way back.

How to read it. `used` is the weight the exchange charged, as a ratio to what it allowed in that
time, after the first minute: 1.000 is the wall. Above it is what a sliding or fixed window
forgives when an answer overshoots (a bucket does not). `429s` are refusals in the whole run; they
cost nothing here, at the real exchange they may cost more. `first minute` is the weight charged
in it, as a ratio to a minute's budget.

small: pages of 1 to 20 rows (weight 21). mixed: 1 to 2000 rows, log-uniform. full: 2000 rows
(weight 120). The clients:

vigil         `vigil.limiter.WeightLimiter`
40 requests   the original plan: 40 requests a minute, evenly spaced, whatever they weigh
extra later   `aiolimiter.AsyncLimiter(1200, 60)`: acquire(20), and acquire(extra) after the answer
refund        reserve 120 for every request, refund what it did not cost when it is answered

The second table is vigil's use of the budget for slower round trips, beside the most that is
provable when the client can't see when it was charged: 57 small or 10 full pages in a minute
and a round trip.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from aiolimiter import AsyncLimiter

from tests.kit.server_model import FixedWindows, Latency, ServerModel, SlidingWindow, TokenBucket, TooManyRequests
from tests.kit.virtual_time import run_virtual
from vigil.limiter import WeightLimiter

BUDGET = 1200
PERIOD = 60.0
ROUND_TRIP = 0.25

PAGES: dict[str, Callable[[random.Random], int]] = {
    "small": lambda rng: rng.randint(1, 20),
    "mixed": lambda rng: int(2000 ** rng.random()),
    "full": lambda rng: 2000,
}
WINDOWS: dict[str, Callable[[], SlidingWindow | FixedWindows | TokenBucket]] = {
    "sliding": lambda: SlidingWindow(BUDGET, PERIOD),
    "fixed": lambda: FixedWindows(BUDGET, PERIOD, 0.37),
    "bucket": lambda: TokenBucket(BUDGET, PERIOD),
}


@dataclass
class Outcome:
    """What the client learns of its request."""

    weight: int | None = None
    """None: refused with a 429."""


class Client(Protocol):
    def request(self) -> AbstractAsyncContextManager[Outcome]: ...


class Vigil:
    def __init__(self) -> None:
        self._limiter = WeightLimiter(BUDGET, PERIOD, rng=random.Random(1))

    @asynccontextmanager
    async def request(self) -> AsyncIterator[Outcome]:
        async with self._limiter.request() as ticket:
            outcome = Outcome()
            yield outcome
            ticket.weight, ticket.answered = outcome.weight or 20, outcome.weight is not None
            if outcome.weight is None:
                self._limiter.pause(ticket)


class FortyRequests:
    def __init__(self) -> None:
        self._limiter = AsyncLimiter(1, PERIOD / 40)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[Outcome]:
        await self._limiter.acquire()
        yield Outcome()


class ExtraLater:
    def __init__(self) -> None:
        self._limiter = AsyncLimiter(BUDGET, PERIOD)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[Outcome]:
        await self._limiter.acquire(20)
        outcome = Outcome()
        yield outcome
        if outcome.weight:
            await self._limiter.acquire(outcome.weight - 20)


class Refund:
    """A log of the last period; each request in it at 120, then at what it cost."""

    def __init__(self) -> None:
        self._log: deque[tuple[float, int]] = deque()
        self._reserved = 0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def request(self) -> AsyncIterator[Outcome]:
        loop = asyncio.get_running_loop()
        async with self._turn:
            while self._used(loop.time()) + self._reserved + 120 > BUDGET:
                expiry = self._log[0][0] + PERIOD if self._log and not self._reserved else 0.0
                await asyncio.sleep(max(expiry - loop.time(), 0.01))
            self._reserved += 120
        outcome = Outcome()
        yield outcome
        self._reserved -= 120
        self._log.append((loop.time(), outcome.weight or 20))

    def _used(self, now: float) -> int:
        while self._log and self._log[0][0] <= now - PERIOD:
            self._log.popleft()
        return sum(weight for _, weight in self._log)


CLIENTS: dict[str, Callable[[], Client]] = {
    "vigil": Vigil,
    "40 requests": FortyRequests,
    "extra later": ExtraLater,
    "refund": Refund,
}


@dataclass(frozen=True)
class Figures:
    used: float
    refused: int
    first_minute: float


def latencies(round_trip: float) -> Iterator[Latency]:
    rng = random.Random(2)
    while True:
        yield Latency.split(round_trip, rng.random(), rng.random())


def measure(
    client: str,
    window: str,
    pages: str,
    coroutines: int,
    minutes: int,
    *,
    round_trip: float = ROUND_TRIP,
    warm: int = 1,
) -> Figures:
    rng, server = random.Random(1), ServerModel([WINDOWS[window]()])
    trips, until = latencies(round_trip), minutes * PERIOD

    async def hour() -> None:
        asker, loop = CLIENTS[client](), asyncio.get_running_loop()

        async def page_after_page() -> None:
            while loop.time() < until:
                async with asker.request() as outcome:
                    try:
                        outcome.weight = await server.ask(PAGES[pages](rng), next(trips))
                    except TooManyRequests:
                        outcome.weight = None

        async with asyncio.TaskGroup() as group:
            for _ in range(coroutines):
                group.create_task(page_after_page())

    run_virtual(hour())
    first_minute = sum(weight for time, weight in server.charges if time < PERIOD) / BUDGET
    return Figures(server.used(BUDGET, PERIOD, warm * PERIOD, until), server.refused, first_minute)


def compare(minutes: int) -> None:
    print(f"{'client':12} {'pages':6} {'coroutines':>10}  ", end="")
    print("   ".join(f"{window:>7} {'429s':>6} {'first minute':>12}" for window in WINDOWS))
    for pages, coroutines, client in itertools.product(PAGES, (1, 8, 64), CLIENTS):
        row = [measure(client, window, pages, coroutines, minutes) for window in WINDOWS]
        cells = "   ".join(f"{one.used:7.3f} {one.refused:6} {one.first_minute:12.2f}" for one in row)
        print(f"{client:12} {pages:6} {coroutines:10}  {cells}", flush=True)


def sweep(minutes: int) -> None:
    print(f"\n{'round trip':>10} {'small':>7} {'bound':>7} {'full':>7} {'bound':>7}   (vigil, sliding, 8 coroutines)")
    for round_trip in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 1.0, 1.5, 2.0, 5.0):
        cells = []
        for pages, share in (("small", 57 * 21 / BUDGET), ("full", 1.0)):
            warm = minutes // 5  # the first wave of small pages is spread out over some ten minutes
            used = measure("vigil", "sliding", pages, 8, minutes, round_trip=round_trip, warm=warm).used
            cells += [used, share * PERIOD / (PERIOD + round_trip)]
        print(f"{round_trip * 1000:7.0f} ms " + " ".join(f"{cell:7.3f}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of the weight budget used, and 429s, against baselines.")
    parser.add_argument("--minutes", type=int, default=60, help="virtual minutes of each run (default: 60)")
    minutes = max(parser.parse_args().minutes, 10)
    compare(minutes)
    sweep(minutes)


if __name__ == "__main__":
    main()
