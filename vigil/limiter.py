"""The weight budget of one address: no answer 429, and nothing left unused.

Theory of operation. The exchange charges 20 weight when a request arrives and one more for
every 20 rows when it answers, so what a request costs is known only afterwards. How it
measures its minute (sliding, fixed windows, a bucket) is unknown; `Budget` is right under all
three. Other hosts charge by other `Prices`; the numbers here are the exchange's. Its rule: a request
is admitted when, *at its arrival*, even the worst case fits:

    weight settled within the last period + 100 (`worst - base`) + 20 for each request
    in flight + 20 for this one  <=  weight allowed in a period

and when a bucket of the same size, refilled steadily, would also let it in. The first bounds
every sliding and every fixed window. The second is needed because the last answer before the
limit may overshoot it (its rows are charged after it was let in): a sliding log forgets that
debt after a period, a bucket does not.

Timing is conservative by construction: a charge happens at the server some time between the
request and the end of the answer. While in flight it counts in full; settled, it is dated at
the *end* of the answer. So an entry leaves our log after it left the server's, and no later
than one latency behind it. That latency is all the budget that is given away.

First come, first served: waiters queue on one lock and only its holder looks at the budget, so
a request is never overtaken, whatever it will weigh. Cancelling a waiter costs nothing;
cancelling a request in flight, or giving it up, settles it at the worst case for two periods,
because the exchange may charge it yet. A 429, a server that can't be reached, or one that fails by this
address alone, closes its gate: see `Gate`. A worker of several addresses has a limiter for each and one queue for all:
whoever is first in it takes the first address that lets it in.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from vigil.allowance import Allowance
from vigil.sources import Source

BASE_WEIGHT = 20
"""Charged when a request arrives (DOC)."""
ROWS_PER_WEIGHT = 20
"""Rows of an answer that one more unit of weight buys (DOC). Floor or ceil is unknown: we account ceil."""
FULL_PAGE_WEIGHT = 120
"""The most a request is expected to cost: 20 + 2000 / 20."""
OVERSHOOT_WEIGHT = FULL_PAGE_WEIGHT - BASE_WEIGHT
"""By so much the last answer before a limit may exceed it."""
SETTLED_PARTS = 100
"""A report tells in so many parts at most when the weight spent returns; that costs 1 % of a period."""
CLOCK_MARGIN = 1e-4
"""Share of a period by which entries are kept longer: two clocks may tick at rates that differ by so much."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What a host charges: weight on arrival, rows that one more weight buys, rows of a full page."""

    base: int = BASE_WEIGHT
    rows_per_weight: int = ROWS_PER_WEIGHT
    page_rows: int = 2000

    def page(self, rows: int) -> int:
        """Weight of an answered request with so many rows."""
        return self.base + math.ceil(rows / self.rows_per_weight)

    @property
    def full_page(self) -> int:
        """The most a request is expected to cost."""
        return self.page(self.page_rows)

    @property
    def overshoot(self) -> int:
        """By so much the last answer before a limit may exceed it."""
        return self.full_page - self.base


EXCHANGE_PRICES = Prices()


def prices_of(source: Source) -> Prices:
    """What a source charges."""
    return Prices(source.base_weight, source.rows_per_weight, source.page_rows)


def page_weight(rows: int) -> int:
    """Weight of the exchange's answer with so many rows."""
    return EXCHANGE_PRICES.page(rows)


class Budget:
    """The rule above, without any waiting: times in seconds are given by the caller."""

    def __init__(self, weight_per_period: int, period_seconds: float, *, prices: Prices = EXCHANGE_PRICES) -> None:
        self.weight_per_period = weight_per_period
        self.period_seconds = period_seconds
        self.prices = prices
        self.worst = prices.full_page
        self.in_flight = 0
        self._log: deque[tuple[float, int]] = deque()  # (time of expiry, weight)
        self._logged = 0
        self._bucket = float(weight_per_period)
        self._bucket_at: float | None = None

    def __repr__(self) -> str:
        return f"<Budget {self._logged} of {self.weight_per_period} settled, {self.in_flight} in flight>"

    def resize(self, now: float, weight_per_period: int) -> None:
        """Allow so much from now on; what has been spent stays spent."""
        self._bucket = self._bucket_level(now) + weight_per_period - self.weight_per_period
        self.weight_per_period = weight_per_period

    def owe(self, weight: int) -> None:
        """Somebody else left this debt in the bucket."""
        self._bucket -= weight

    def claimed(self, now: float) -> int:
        """Weight that the exchange may have counted in the period that ends now: requests in flight at their worst."""
        return self.used(now) + self.in_flight * self.worst

    def room(self, now: float) -> int:
        """Weight of the period that is not claimed."""
        return self.weight_per_period - self.claimed(now)

    def settled(self, now: float) -> list[tuple[int, float]]:
        """What is settled within the period that ends now: weight, and the seconds until it leaves the period.

        None leaves earlier than it does here. At most `SETTLED_PARTS` of them and the margin's, or twice
        as many when requests were given up, which count for two periods.
        """
        self.used(now)
        step = self.period_seconds / SETTLED_PARTS
        parts: dict[int, int] = {}
        for expiry, weight in self._log:
            part = math.ceil((expiry - now) / step)
            parts[part] = parts.get(part, 0) + weight
        return [(weight, part * step) for part, weight in parts.items()]

    def used(self, now: float) -> int:
        """Weight settled within the period that ends now."""
        while self._log and self._log[0][0] <= now:
            self._logged -= self._log.popleft()[1]
        return self._logged

    def delay(self, now: float) -> float:
        """Seconds until a request may be admitted if nothing settles before: 0 is now, inf is not by waiting."""
        needed = self.in_flight * self.worst + self.prices.base
        return max(self._delay_by_log(now, needed), self._delay_by_bucket(now, needed))

    def _delay_by_log(self, now: float, needed: int) -> float:
        excess = self.used(now) + needed - self.weight_per_period
        if excess <= 0:
            return 0.0
        for expiry, weight in self._log:
            excess -= weight
            if excess <= 0:
                return expiry - now
        return math.inf

    def _delay_by_bucket(self, now: float, needed: int) -> float:
        missing = needed - self._bucket_level(now)
        if missing <= 0:
            return 0.0
        return missing / self._refill if self._refill else math.inf

    @property
    def _refill(self) -> float:
        """Weight a second."""
        return self.weight_per_period / (self.period_seconds * (1 + CLOCK_MARGIN))

    def _bucket_level(self, now: float) -> float:
        refilled = self._bucket + (0.0 if self._bucket_at is None else (now - self._bucket_at) * self._refill)
        self._bucket, self._bucket_at = min(refilled, float(self.weight_per_period)), now
        return self._bucket

    def admit(self) -> None:
        self.in_flight += 1

    def settle(self, now: float, weight: int | None) -> None:
        """A request in flight has ended and cost `weight` (0: it never reached the exchange).

        None: it was given up. It may still be on its way, and be charged after we stopped listening,
        so it counts at the worst case for a period more.
        """
        self.in_flight -= 1
        kept = self.period_seconds * (1 + CLOCK_MARGIN)
        if weight is None:
            weight, kept = self.worst, 2 * kept
        if weight:
            insort(self._log, (now + kept, weight))  # in order of expiry
            self._logged += weight
            self._bucket = self._bucket_level(now) - weight


class Gate:
    """Stops an address once when the exchange says stop, and lets it try again with one request.

    Requests under way when the gate closes may fail for the same reason; they belong to an older
    `generation` and close nothing again. When the pause is over one request goes first; others
    follow when one has been answered. Each pause after a failed try is twice as long, within
    `longest_seconds`, and spread by a random factor so that workers do not come back in step.
    """

    def __init__(self, *, first_seconds: float, longest_seconds: float, rng: random.Random) -> None:
        self.generation = 0
        self.pauses = 0
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._rng = rng
        self._opens_at = -math.inf
        self._strikes = 0
        self._probe_in_flight = False

    @property
    def is_open(self) -> bool:
        return self._strikes == 0

    def delay(self, now: float) -> float:
        if self.is_open:
            return 0.0
        if self._probe_in_flight:
            return math.inf
        return max(0.0, self._opens_at - now)

    def admit(self) -> int:
        self._probe_in_flight = not self.is_open
        return self.generation

    def close(self, now: float, generation: int, retry_after: float | None) -> None:
        """The exchange refused a request admitted in `generation`; honours `retry_after` seconds."""
        if generation != self.generation:
            return
        self.generation += 1
        self.pauses += 1
        pause = min(self._first_seconds * 2**self._strikes, self._longest_seconds) * self._rng.uniform(1.0, 1.5)
        self._strikes = min(self._strikes + 1, 32)
        self._opens_at = now + max(pause, retry_after or 0.0)
        self._probe_in_flight = False

    def ended(self, generation: int, *, answered: bool) -> None:
        """A request admitted in `generation` has ended; `answered` opens the gate for everyone."""
        if generation == self.generation:
            self._probe_in_flight = False
            if answered:
                self._strikes = 0


@dataclass
class Ticket:
    """One admitted request: set `weight` to what it cost, `answered` when the exchange served it.

    `weight` None says that nobody knows, nor whether the exchange is done with it.
    """

    generation: int
    weight: int | None = None
    answered: bool = False


class Queue:
    """Requests that wait for one of a worker's addresses, first come first served; of one event loop."""

    def __init__(self) -> None:
        self.waiting = 0
        self.turn = asyncio.Lock()  # whoever holds it is the first
        self.changed = asyncio.Event()  # something the first may be waiting for


class WeightLimiter:
    """Admits one address's requests within a `Budget`, through a `Gate`, first come first served.

    `requests_per_period` is the original plan's cap, evenly spaced, on top of the weight. Uses the running
    loop's clock. The limiters of a worker's several addresses share a `queue`: see `admission`.
    """

    def __init__(
        self,
        weight_per_period: int = 1200,
        period_seconds: float = 60.0,
        *,
        requests_per_period: float | None = None,
        longest_pause_seconds: float = 60.0,
        rng: random.Random | None = None,
        prices: Prices = EXCHANGE_PRICES,
        queue: Queue | None = None,
    ) -> None:
        self.budget = Budget(weight_per_period, period_seconds, prices=prices)
        first_pause = min(period_seconds / 30, longest_pause_seconds)
        self.gate = Gate(first_seconds=first_pause, longest_seconds=longest_pause_seconds, rng=rng or random.Random())
        self.queue = queue or Queue()
        self.weight_spent = 0
        self.admitted = 0
        self._interval = period_seconds / requests_per_period if requests_per_period else 0.0
        self._pace = AsyncLimiter(1, self._interval) if self._interval else None
        self._paced_at = -math.inf

    @asynccontextmanager
    async def request(self) -> AsyncIterator[Ticket]:
        """`admission` by this address alone."""
        async with admission([self]) as (_, ticket):
            yield ticket

    def resize(self, weight_per_period: int) -> None:
        """Allow so much weight a period from now on: this worker's share of its address's budget."""
        if weight_per_period != self.budget.weight_per_period:
            self.budget.resize(asyncio.get_running_loop().time(), weight_per_period)
            self.queue.changed.set()

    def pause(self, ticket: Ticket, retry_after: float | None = None) -> float:
        """Close the gate, because of what `ticket`'s request was told; returns seconds."""
        now = asyncio.get_running_loop().time()
        self.gate.close(now, ticket.generation, retry_after)
        return self.gate.delay(now)

    def delay(self, now: float) -> float:
        """Seconds until it may let a request in if nothing settles before: 0 is now, inf is not by waiting."""
        return max(self._closed_for(now), self._paced_at + self._interval - now)

    async def take_place(self) -> bool:
        """For a request that need not wait: its place in the pace. False: gate or budget closed meanwhile."""
        if self._pace is not None:
            await self._pace.acquire()
            self._paced_at = asyncio.get_running_loop().time()
        return self._closed_for(asyncio.get_running_loop().time()) == 0

    @contextmanager
    def hold(self) -> Iterator[Ticket]:
        """One request's share of the budget, until the block ends."""
        self.admitted += 1
        self.budget.admit()
        ticket = Ticket(self.gate.admit())
        try:
            yield ticket
        finally:
            self.budget.settle(asyncio.get_running_loop().time(), ticket.weight)
            self.gate.ended(ticket.generation, answered=ticket.answered)
            self.weight_spent += self.budget.worst if ticket.weight is None else ticket.weight
            self.queue.changed.set()

    def _closed_for(self, now: float) -> float:
        return max(self.gate.delay(now), self.budget.delay(now))


@asynccontextmanager
async def admission(
    limiters: Sequence[WeightLimiter], allowance: Allowance | None = None
) -> AsyncIterator[tuple[WeightLimiter, Ticket]]:
    """Wait in the queue these limiters share, then hold one request's share of the first that lets it in.

    A block that is left without saying what the request cost is charged the worst case.
    Raises: LimitReached where the `allowance` of the run permits no more; nothing has begun then.
    """
    queue = limiters[0].queue
    queue.waiting += 1
    try:
        async with queue.turn:
            limiter = await _first_clear(queue, limiters, allowance)
            if allowance is not None:
                allowance.check()  # the pace may have kept it waiting
    finally:
        queue.waiting -= 1
    with limiter.hold() as ticket:  # before anybody else has a turn: nothing is awaited in between
        yield limiter, ticket


async def _first_clear(queue: Queue, limiters: Sequence[WeightLimiter], allowance: Allowance | None) -> WeightLimiter:
    """The limiter that lets a request in first, when it does; of several, the one with the most room."""
    loop = asyncio.get_running_loop()
    while True:
        now = loop.time()
        delay, _, place = min((max(0.0, one.delay(now)), -one.budget.room(now), i) for i, one in enumerate(limiters))
        if allowance is not None and not _permits(allowance, limiters):
            delay = math.inf
        if delay == 0:
            if await limiters[place].take_place():
                return limiters[place]
            continue
        queue.changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(delay) else delay):
                await queue.changed.wait()


def _permits(allowance: Allowance, limiters: Sequence[WeightLimiter]) -> bool:
    spent, in_flight = sum(one.weight_spent for one in limiters), sum(one.budget.in_flight for one in limiters)
    return allowance.admits(spent, in_flight, limiters[0].budget.worst)
