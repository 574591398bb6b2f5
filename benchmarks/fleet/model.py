"""The fleet on a heap of events: `Budget` as it is, readers and walks as counters.

What asyncio does in `WeightLimiter` is done here by hand: readers of an address queue, the first
of them is let in as soon as `Budget.delay` is 0, an answer settles and sends its reader to the end of the
queue, with the next page or the next user. `benchmarks.fleet.real` is the same with the real ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from benchmarks.fleet.orders import Order
from benchmarks.fleet.outcome import BUDGET, PERIOD, READERS, Outcome, pages_of, round_trip
from benchmarks.fleet.population import Users
from tests.kit.virtual_time import CREEP_SECONDS
from vigil.limiter import Budget, page_weight


class _Reader:
    """One user at a time: `sizes` are the answers to come."""

    __slots__ = ("page", "sizes", "user")

    def __init__(self, user: int, sizes: list[int]) -> None:
        self.user, self.sizes, self.page = user, sizes, 0


class _Address:
    __slots__ = ("budget", "number", "waiting", "wakes_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.budget = Budget(BUDGET, PERIOD)
        self.waiting: deque[_Reader] = deque()
        self.wakes_at = -math.inf


def simulate(
    users: Users,
    order: Order,
    addresses: int,
    *,
    readers: int = READERS,
    latency: Callable[[int, int], float] = round_trip,
    parts: Callable[[int], int] | None = None,
) -> Outcome:
    """Read everybody; `parts` splits a user with so many rows among so many readers, by time."""
    fleet = _Fleet(users, order, addresses, latency, parts)
    fleet.run(readers)
    return fleet.outcome


class _Fleet:
    def __init__(
        self,
        users: Users,
        order: Order,
        addresses: int,
        latency: Callable[[int, int], float],
        parts: Callable[[int], int] | None,
    ) -> None:
        self.outcome = Outcome([0.0] * addresses)
        self._users, self._order, self._latency, self._parts = users, order, latency, parts
        self._addresses = [_Address(number) for number in range(addresses)]
        self._events: list[tuple[float, int, _Address, _Reader | None]] = []
        self._numbers = count()  # of events at one time the first one first
        self._spare: deque[_Reader] = deque()  # further parts of users that have been claimed

    def run(self, readers: int) -> None:
        for _ in range(readers):  # all addresses start at once, so their claims take turns
            for address in self._addresses:
                if reader := self._claim(0.0):
                    address.waiting.append(reader)
        for address in self._addresses:
            self._let_in(address, 0.0)
        while self._events:
            now, _, address, answered = heappop(self._events)
            if answered is not None:
                self._answer(address, answered, now)
            self._let_in(address, now)

    def _answer(self, address: _Address, reader: _Reader, now: float) -> None:
        weight = page_weight(reader.sizes[reader.page])
        address.budget.settle(now, weight)
        outcome = self.outcome
        outcome.requests += 1
        outcome.weight += weight
        outcome.ends[address.number] = now
        reader.page += 1
        going_on = reader if reader.page < len(reader.sizes) else self._claim(now)
        if going_on is not None:
            address.waiting.append(going_on)

    def _claim(self, now: float) -> _Reader | None:
        if self._spare:
            return self._spare.popleft()
        user = self._order.next(now / 3600)
        if user is None:
            return None
        rows = self._users.rows(user, now / 3600)
        self.outcome.users += 1
        self.outcome.saved += rows
        parts = self._parts(rows) if self._parts else 1
        shares = [rows * (part + 1) // parts - rows * part // parts for part in range(parts)]
        self._spare.extend(_Reader(user, list(pages_of(share))) for share in shares[1:])
        return _Reader(user, list(pages_of(shares[0])))

    def _let_in(self, address: _Address, now: float) -> None:
        budget = address.budget
        while address.waiting:
            if delay := budget.delay(now):
                wakes_at = now + delay + CREEP_SECONDS  # without it a float's residue makes it spin
                if not math.isinf(delay) and not now < address.wakes_at <= wakes_at:
                    address.wakes_at = wakes_at
                    heappush(self._events, (wakes_at, next(self._numbers), address, None))
                return
            reader = address.waiting.popleft()
            budget.admit()
            answered_at = now + self._latency(reader.user, reader.page)
            heappush(self._events, (answered_at, next(self._numbers), address, reader))
