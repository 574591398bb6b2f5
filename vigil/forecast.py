"""How long what is left will take: in weight, because users differ a thousandfold in what they cost. Pure.

The weight is the wall, so time is weight / budget. What the users that are left will weigh is guessed
from those that were read; the range says how much that guess may be off. Users who lose history go
first and are heavy, so early in a run the guess is rather too high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_USER_WEIGHT = 20
"""Of a user without fills: one request."""

PAGE_ROWS = 2000
ROWS_PER_WEIGHT = 20
"""The exchange's prices; other hosts have others (vigil.limiter.Prices)."""

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

    @classmethod
    def of(cls, count: int, total: float, squares: float) -> Sample:
        """From their count, their sum, and the sum of their squares, as a database adds them up."""
        mean = total / count if count else 0.0
        return cls(count, mean, max(0.0, squares - total * mean))

    def __add__(self, other: Sample) -> Sample:
        """Both together."""
        count = self.count + other.count
        if not count:
            return Sample()
        apart = other.mean - self.mean
        squares = self._squares + other._squares + apart * apart * self.count * other.count / count
        return Sample(count, self.mean + apart * other.count / count, squares)

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

    def __add__(self, other: Forecast) -> Forecast:
        """Of both, should they be off in the same direction."""
        return Forecast(self.low + other.low, self.expected + other.expected, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Left:
    """Users that are still to be read and alike, as far as anybody knows; `seen` are those of their kind that were."""

    users: int
    seen: Sample


def rows_weight(
    rows: int, *, base: int = LEAST_USER_WEIGHT, rows_per_weight: int = ROWS_PER_WEIGHT, page_rows: int = PAGE_ROWS
) -> int:
    """What it costs to read a history of so many rows to its end, when nothing goes wrong.

    A page begins with the last row of the one before, and a full one is followed by another, be that
    one of that row alone. backfill_weight() of migration 007 says the same.
    """
    pages = 1 + max(rows - 1, 0) // (page_rows - 1)
    return base * pages + -(-(rows + pages - 1) // rows_per_weight)


def weight_left(users: int, seen: Sample) -> Forecast | None:
    """What `users` more will weigh if they are like those `seen`; None when those are too few to tell.

    Two things make it uncertain: the mean of those seen is not the mean of all, and those to come vary.
    """
    return fleet_left([Left(users, seen)])


def fleet_left(groups: Sequence[Left], *, least: float = LEAST_USER_WEIGHT) -> Forecast | None:
    """What all of them will weigh, each `least` at the least; None while too few were read of any kind to tell.

    A kind of which too few were read is guessed from all kinds together.
    """
    everybody = sum((group.seen for group in groups), Sample())
    if everybody.count < FEWEST:
        return None
    expected = variance = 0.0
    for group in groups:
        seen = group.seen if group.seen.count >= FEWEST else everybody
        expected += group.users * seen.mean
        variance += seen.deviation**2 * (group.users**2 / seen.count + group.users)
    spread, floor = NINETY_PERCENT * math.sqrt(variance), sum(group.users for group in groups) * least
    return Forecast(max(expected - spread, min(expected, floor)), expected, expected + spread)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h, 2.1 days."""
    for unit, length, digits in (("days", 86_400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * length or (unit != "days" and seconds >= length):
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
