"""What comes out of a simulated fleet, and what the least is that it could have cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vigil.cursor import PAGE_ROWS, is_full
from vigil.limiter import BASE_WEIGHT, ROWS_PER_WEIGHT

BUDGET, PERIOD = 1200, 60.0
PER_HOUR = BUDGET * 3600 / PERIOD
READERS = 8
ROUND_TRIP = 0.25


@dataclass
class Outcome:
    """Of one simulated run. `ends` is by address the second in which its last answer came."""

    ends: list[float]
    users: int = 0
    requests: int = 0
    weight: int = 0
    saved: int = 0
    """Fills read: those that could still be had when their user was claimed."""
    refused: int = 0
    """Answers 429."""

    @property
    def seconds(self) -> float:
        return max(self.ends)

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def used(self) -> float:
        """Share of all addresses' budget until the last has finished; the first minute's burst included."""
        return self.weight / (len(self.ends) * BUDGET * (self.seconds / PERIOD))

    @property
    def tail_minutes(self) -> float:
        """From the first address with nothing left to do to the end."""
        return (self.seconds - min(self.ends)) / 60

    @property
    def idle(self) -> float:
        """Share of all addresses' time that lies after their own last answer."""
        return 1 - sum(self.ends) / (len(self.ends) * self.seconds)


def pages_of(rows: int, page_rows: int = PAGE_ROWS) -> Iterator[int]:
    """The sizes of the answers to a walk over so many rows, no two in one millisecond.

    After a page that may have been cut, the next begins with the last row of it once more.
    """
    got = min(rows, page_rows)
    yield got
    left = rows - got
    while is_full(got):
        got = min(left + 1, page_rows)
        yield got
        left -= got - 1


def least_weight(rows: int) -> int:
    """What so many rows cost at the very least: 20 a page and 1 for every 20 rows."""
    return BASE_WEIGHT * max(1, math.ceil(rows / PAGE_ROWS)) + math.ceil(rows / ROWS_PER_WEIGHT)


def round_trip(user: int, page: int, mean: float = ROUND_TRIP) -> float:
    """Seconds between half and one and a half of the mean; the same for the same page, whoever asks."""
    return mean * (0.5 + (user * 2_654_435_761 + page * 1_640_531_527) % 2**32 / 2**32)
