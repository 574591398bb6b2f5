"""What one run may spend in all: how much weight, and until when. Pure: others keep the time.

Theory of operation. Every request for a page asks here when it is the first in the limiter's queue, tries
again included, and is turned away (`LimitReached`) once a limit is reached; nothing else stops the
run. What has begun comes to its end and is committed. Of the weight each request reserves what a full page
costs, until its answer tells what it did cost: so the limit is never exceeded, and less than one full page
of it may be left over. One thing does not ask: the lifetime volume of a user who has just been read to the end
(`--volume-check`), or its last page would have been read in vain. A user whose next page is turned away
has not failed: its claim ends with the run, and the next one goes on at its cursor.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from vigil.errors import UsageError

SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


class Limit(StrEnum):
    """What a run stopped at."""

    DURATION = "max_duration"
    WEIGHT = "max_weight"


class LimitReached(Exception):
    """This request, and every later one, would go beyond what the run may spend."""


class Allowance:
    """`weight` None is no limit; `on_reached` is called once, when the first limit is reached."""

    def __init__(self, weight: int | None = None, *, on_reached: Callable[[], None] = lambda: None) -> None:
        self.weight = weight
        self.reached: Limit | None = None
        self._on_reached = on_reached

    def admits(self, spent: int, in_flight: int, full_page: int) -> bool:
        """Whether a page may be asked for, with so much `spent` and pages `in_flight` that cost `full_page` at most.

        False: not before one of those has ended. Raises: LimitReached.
        """
        fits = self.weight is None or spent + (in_flight + 1) * full_page <= self.weight
        if not fits and not in_flight:
            self.reach(Limit.WEIGHT)
        self.check()
        return fits

    def check(self) -> None:
        """Raises: LimitReached."""
        if self.reached is not None:
            raise LimitReached

    def reach(self, limit: Limit) -> None:
        """From now on nothing begins. Idempotent."""
        if self.reached is None:
            self.reached = limit
            self._on_reached()


def parse_span(text: str, *, flag: str) -> float:
    """Seconds of `2h30m`, `90s`, `3d`, `1.5h`. Raises: UsageError, naming `flag`."""
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch("".join(f"(?:{number}{unit})?" for unit in SECONDS), text.strip().lower())
    if found is None or not any(part and float(part) for part in found.groups()):
        raise UsageError(f"{flag} {text!r} is no span of time.", hint="For example 90s, 45m, 2h30m or 3d.")
    return sum(float(part or 0) * seconds for part, seconds in zip(found.groups(), SECONDS.values(), strict=True))
