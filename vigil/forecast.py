"""How long what is left will take: in weight, because users differ a thousandfold in what they cost. Pure.

The weight is the wall, so time is weight / budget. What the users that are left will weigh is guessed
from those that were read; the range says how much that guess may be off. Users who lose history go
first and are heavy, so early in a run the guess is rather too high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_USER_WEIGHT = 20
"""Of a user without fills: one request."""

NINETY_PERCENT = 1.645
"""Standard deviations to either side that hold nine of ten outcomes."""

FEWEST = 5
"""Users read before anything is guessed from them."""


@dataclass(slots=True)
class Sample:
    """Count, mean and spread of numbers seen one by one (Welford's way: no sum of squares to lose digits in)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        off = value - self.mean
        self.mean += off / self.count
        self._squares += off * (value - self.mean)

    @property
    def deviation(self) -> float:
        """The standard deviation of what they were drawn from."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Weight, or seconds: what is expected, and the span that should hold it nine times of ten."""

    low: float
    expected: float
    high: float

    def __truediv__(self, rate: float) -> Forecast:
        return Forecast(self.low / rate, self.expected / rate, self.high / rate)


def weight_left(users: int, seen: Sample) -> Forecast | None:
    """What `users` more will weigh if they are like those `seen`; None when those are too few to tell.

    Two things make it uncertain: the mean of those seen is not the mean of all, and those to come vary.
    """
    if seen.count < FEWEST:
        return None
    expected = users * seen.mean
    spread = NINETY_PERCENT * seen.deviation * math.sqrt(users * users / seen.count + users)
    return Forecast(max(expected - spread, min(expected, users * LEAST_USER_WEIGHT)), expected, expected + spread)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h, 2.1 days."""
    for unit, length, digits in (("days", 86_400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * length or (unit != "days" and seconds >= length):
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
