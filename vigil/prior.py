"""What is assumed of users of whom nothing is known: how many fills they have within the window and within reach.

How many users have how many fills is published nowhere. So lengths are log-normal, whose tail is heavy, in
three strengths (docs/plan.md, docs/scale.md): what is expected is the middle one, and the other two are the
range. An assumption, not a measurement: whoever has read some hundred users knows better. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

LAUNCH_MS = 1_698_796_800_000
"""2023-11-01: before it, a window holds next to nothing. The lengths are of [this, 2025-07-27)."""
END_MS = 1_753_574_400_000

QUANTILES = 4_000
"""Users, evenly spread over the distribution, whose costs are added up."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Median and spread (of the logarithm) of a user's fills in the window; `empty` is the share that has none."""

    median: float
    sigma: float
    empty: float = 0.1

    def rows(self, scale: float = 1.0) -> list[int]:
        """`QUANTILES` users, fewest rows first, in a window `scale` times as long."""
        none = round(self.empty * QUANTILES)
        center, normal = math.log(self.median), NormalDist()
        chances = ((i + 0.5) / (QUANTILES - none) for i in range(QUANTILES - none))
        drawn = (math.exp(center + self.sigma * normal.inv_cdf(chance)) for chance in chances)
        return [0] * none + [max(1, round(rows * scale)) for rows in drawn]


LIGHT = Lengths(median=8.0, sigma=2.2)
MIDDLE = Lengths(median=30.0, sigma=2.3)
HEAVY = Lengths(median=150.0, sigma=2.3)

TWAP_SHARE = 0.05
"""Of users who need a second list (`--twap auto`): a guess."""
