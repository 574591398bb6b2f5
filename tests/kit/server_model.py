"""How the exchange counts weight, three ways, without the network: what the limiter is judged by.

Written from the exchange's documentation, not from `vigil` (nor from its simulator): a shared
misreading would prove nothing. A request costs 20 when it arrives and one more for every 20
rows (rounded up) when it is answered; an arrival that does not fit is refused with a 429 and
costs nothing. What was answered may overshoot the budget: its rows were let in already.

The client can't see when in a round trip the server counted, so a `Latency` has three parts:
the way there (before the first charge), serving (between the charges) and the way back. A client
that stops waiting stops nothing: the server goes on, and charges.

Times come from the running loop: use `run_virtual`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Latency(NamedTuple):
    """Seconds of the three parts of one round trip."""

    there: float
    serving: float = 0.0
    back: float = 0.0

    @classmethod
    def split(cls, total: float, there: float, serving: float = 0.0) -> Latency:
        """Shares `there` and `serving` of `total` seconds, cut to fit; the rest is the way back."""
        serving = min(serving, 1 - there)
        return cls(total * there, total * serving, total * (1 - there - serving))


class TooManyRequests(Exception):
    """The server's 429."""


class Window(Protocol):
    """One way to measure "so much weight a minute"."""

    def room(self, now: float) -> float:
        """Weight that may still be spent at `now`; negative after an overshoot."""
        ...

    def charge(self, now: float, weight: int) -> None: ...


class SlidingWindow:
    """Everything charged in the last `period` seconds counts, ends included."""

    def __init__(self, budget: int, period: float) -> None:
        self._budget, self._period = budget, period
        self._charges: deque[tuple[float, int]] = deque()

    def room(self, now: float) -> float:
        while self._charges and self._charges[0][0] < now - self._period:
            self._charges.popleft()
        return self._budget - sum(weight for _, weight in self._charges)

    def charge(self, now: float, weight: int) -> None:
        self._charges.append((now, weight))


class FixedWindows:
    """The count begins anew every `period` seconds; where a minute begins (`phase`, 0 to 1) is the server's affair."""

    def __init__(self, budget: int, period: float, phase: float = 0.0) -> None:
        self._budget, self._period, self._phase = budget, period, phase
        self._window, self._charged = -1, 0

    def room(self, now: float) -> float:
        window = math.floor(now / self._period + self._phase)
        if window != self._window:
            self._window, self._charged = window, 0
        return self._budget - self._charged

    def charge(self, now: float, weight: int) -> None:
        self.room(now)
        self._charged += weight


class TokenBucket:
    """Full at first, refilled steadily, and a debt stays until it is refilled."""

    def __init__(self, budget: int, period: float) -> None:
        self._budget, self._refill = budget, budget / period
        self._level, self._at = float(budget), 0.0

    def room(self, now: float) -> float:
        self._level = min(self._level + (now - self._at) * self._refill, float(self._budget))
        self._at = now
        return self._level

    def charge(self, now: float, weight: int) -> None:
        self._level = self.room(now) - weight


def every_window(budget: int, period: float, phases: Iterable[float] = (0.0, 0.21, 0.5, 0.83)) -> list[Window]:
    """All models at once: a client without 429s can't tell them apart, so one run judges it by all."""
    fixed = [FixedWindows(budget, period, phase) for phase in phases]
    return [SlidingWindow(budget, period), TokenBucket(budget, period), *fixed]


class ServerModel:
    """Answers requests, refusing each that any of its `windows` has no room for."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = windows
        self.charges: list[tuple[float, int]] = []
        self.least_room = math.inf
        """Of all arrivals: what the fullest window had left after the 20 of the arrival; negative means 429s."""
        self.refused = 0
        self.answered = 0
        self.order: list[object] = []
        """What the requests were called (`name`), in the order of their being sent."""

    async def ask(self, rows: int, latency: Latency, name: object = None) -> int:
        """Answer the weight one request cost. Raises: TooManyRequests."""
        loop = asyncio.get_running_loop()
        self.order.append(name)
        reply: asyncio.Future[int] = loop.create_future()

        def send_back(weight: int | None) -> None:
            if reply.done():  # nobody waits for it any more
                return
            if weight is None:
                reply.set_exception(TooManyRequests())
            else:
                reply.set_result(weight)

        def answer() -> None:
            weight = math.ceil(rows / 20)
            self._charge(loop.time(), weight)
            self.answered += 1
            loop.call_later(latency.back, send_back, 20 + weight)

        def arrive() -> None:
            now = loop.time()
            room = min(window.room(now) for window in self._windows) - 20
            self.least_room = min(self.least_room, room)
            if room < -1e-6:  # the residue of a bucket's floats is no weight
                self.refused += 1
                loop.call_later(latency.back, send_back, None)
                return
            self._charge(now, 20)
            loop.call_later(latency.serving, answer)

        loop.call_later(latency.there, arrive)
        return await reply

    def _charge(self, now: float, weight: int) -> None:
        if weight:
            self.charges.append((now, weight))
            for window in self._windows:
                window.charge(now, weight)

    def used(self, budget: int, period: float, since: float, until: float) -> float:
        """Share of the budget that was used between two times, one being all of it.

        The edges are ramps one period wide, within the span (outside of `since` and `until`
        nothing counts): requests come in waves one period apart, and a sharp edge would count
        a wave more or less.
        """
        weight = sum(
            weight * min(1.0, (time - since) / period, (until - time) / period)
            for time, weight in self.charges
            if since < time < until
        )
        return weight / (budget * (until - since - period) / period)
