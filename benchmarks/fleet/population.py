"""Made-up users: how long their histories are, and how fast they push them out of reach.

What is known: the exchange shows about the newest 10,000 fills of a user (documented; 10,000 to 12,800 and 31,000
were measured on single wallets), most users trade little and few very much, and a user who trades on loses
old fills. How many users have how many fills is published nowhere, and recordings are of users that somebody picked.
So lengths are drawn from a log-normal distribution, whose tail is heavy, in three strengths; a measured
one can be given instead.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from vigil.prior import HEAVY, LIGHT, MIDDLE
from vigil.urgency import REACH_ROWS

WINDOW_HOURS = 620 * 24.0
"""The plan's window: November 2023 to July 2025."""


@dataclass(frozen=True, slots=True)
class Habits:
    """Of a population: the median and spread (of the logarithm) of fills in the window, and who trades on.

    `after_hours` is how long ago the window ended when the reading starts. `reach` is how many of its newest
    fills a host shows of a user; inf is a host that keeps everything.
    """

    median: float = MIDDLE.median
    sigma: float = MIDDLE.sigma
    empty: float = MIDDLE.empty
    active: float = 0.3
    after_hours: float = 60 * 24.0
    reach: float = REACH_ROWS


POPULATIONS = {
    "light": Habits(LIGHT.median, LIGHT.sigma),
    "middle": Habits(),
    "heavy": Habits(HEAVY.median, HEAVY.sigma),
}


@dataclass(slots=True)
class Users:
    """By user: fills of the window, fills after it when reading starts, and fills an hour from then on."""

    reach: float
    window: list[int] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    pace: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.window)

    def rows(self, user: int, hours: float = 0.0) -> int:
        """Fills of the user's window that can still be had after so many hours."""
        if math.isinf(self.reach):
            return self.window[user]
        left = self.reach - self.after[user] - self.pace[user] * hours
        return max(0, min(self.window[user], int(left)))


def draw(users: int, habits: Habits, seed: int = 1, lengths: Sequence[int] = ()) -> Users:
    """So many users; `lengths` to draw from instead of the distribution, in no order."""
    rng, found = random.Random(seed), Users(habits.reach)
    median = math.log(habits.median)
    for _ in range(users):
        if lengths:
            rows = rng.choice(lengths)
        else:
            rows = 0 if rng.random() < habits.empty else max(1, round(math.exp(rng.gauss(median, habits.sigma))))
        # Traded within a part of the window only, so the pace is higher than the mean over all of it.
        usual = rows / (WINDOW_HOURS * rng.uniform(0.05, 1.0)) * math.exp(rng.gauss(0.0, 0.7))
        trades_on = rng.random() < habits.active
        found.window.append(rows)
        found.pace.append(usual if trades_on else 0.0)
        found.after.append(usual * habits.after_hours * (1.0 if trades_on else rng.random() ** 3))
    return found
