"""What the exchange answers: pages, windows, retention. Pure; the moment is an argument.

Graded facts modelled here (see the package's docstring): a page is the *earliest* `page_rows`
fills from `startTime` on; both bounds are inclusive; only the newest `retention_rows` fills of
a user's whole history can be reached, whatever the window; order is execution order.

Recorded users answer with all they were recorded with: the real exchange did show those rows,
so retention is not applied to them, nor are they hidden for lying after the simulated now.

Rows travel as JSON text from the population to the socket, so that a full page costs a join.
Must not know HTTP, weight or faults.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from msgspec.json import decode as decode_json

from .population import History, Population
from .replay import Recording

NOTHING = History([], [])
# Looked at for a page of somebody else's: three in four have fills.
_NEIGHBOURS = 100


@dataclass(frozen=True, slots=True)
class Truth:
    """What a perfect client can hold of a window now, and what nobody can get any more."""

    rows: list[str]
    lost_rows: int


class Exchange:
    """Answers for the users of a population and of a recording."""

    def __init__(
        self,
        population: Population,
        recording: Recording | None = None,
        *,
        page_rows: int = 2_000,
        retention_rows: int = 10_000,
    ) -> None:
        self._population, self._recording = population, recording
        self._page_rows, self._retention_rows = page_rows, retention_rows

    def fills_by_time(self, user: str, start_ms: int, end_ms: int | None, now_ms: int) -> list[str]:
        """`userFillsByTime`: the earliest page of reachable fills in the window, ascending."""
        history, oldest, newest = self._reachable(user, now_ms)
        low, high = _window(history, start_ms, end_ms, oldest, newest)
        return history.rows[low : min(high, low + self._page_rows)]

    def fills_of_another(self, user: str, start_ms: int, end_ms: int | None, now_ms: int) -> list[str]:
        """The page of the next user that has one: an answer gone astray. Empty where nobody near has any."""
        index, size = self._population.index(user), self._population.size
        first = 0 if index is None else index + 1
        for step in range(min(size, _NEIGHBOURS)):
            other = self._population.address((first + step) % size)
            rows = [] if other == user else self.fills_by_time(other, start_ms, end_ms, now_ms)
            if rows:
                return rows
        return []

    def newest_fills(self, user: str, now_ms: int) -> list[str]:
        """`userFills`: the newest page of fills, newest first."""
        history, oldest, newest = self._reachable(user, now_ms)
        return history.rows[max(oldest, newest - self._page_rows) : newest][::-1]

    def twap_slices_by_time(self, user: str, start_ms: int, end_ms: int | None) -> list[str]:
        """`userTwapSliceFillsByTime`: recorded rows `{fill, twapId}`; the population has none."""
        slices = self._twap_slices(user)
        low, high = _window(slices, start_ms, end_ms, 0, len(slices.rows))
        return slices.rows[low : min(high, low + self._page_rows)]

    def lifetime_volume(self, user: str, now_ms: int) -> Decimal:
        """`cumVlm` of `userRateLimit`: price times size of the user's whole history, lost rows included.

        What exactly the real one counts is unproven. Of recorded users it is all that is recorded.
        """
        if self._recording is not None and user in self._recording.users:
            recorded = self._recording.users[user]
            slices = [decode_json(row)["fill"] for row in recorded.twap_slices.rows]
            return _notional([*recorded.fills.decoded(), *slices])
        index = self._population.index(user)
        if index is None:
            return Decimal(0)
        history = self._population.history(index, now_ms)
        newest = bisect_right(history.times, now_ms)
        return _notional(decode_json(row) for row in history.rows[:newest])

    def truth(self, user: str, start_ms: int, end_ms: int | None, now_ms: int) -> Truth:
        """Every fill of the window that can be reached now, and how many retention took."""
        history, oldest, newest = self._reachable(user, now_ms)
        low, high = _window(history, start_ms, end_ms, oldest, newest)
        first, last = _window(history, start_ms, end_ms, 0, newest)
        return Truth(history.rows[low:high], max(0, last - first) - max(0, high - low))

    def twap_truth(self, user: str, start_ms: int, end_ms: int | None) -> Truth:
        """Every recorded TWAP slice of the window."""
        slices = self._twap_slices(user)
        low, high = _window(slices, start_ms, end_ms, 0, len(slices.rows))
        return Truth(slices.rows[low:high], 0)

    def _reachable(self, user: str, now_ms: int) -> tuple[History, int, int]:
        """The user's history and the index range of what the exchange still (and already) shows."""
        if self._recording is not None and user in self._recording.users:
            history = self._recording.users[user].fills
            return history, 0, len(history.rows)
        index = self._population.index(user)
        if index is None:
            return NOTHING, 0, 0
        history = self._population.history(index, now_ms)
        newest = bisect_right(history.times, now_ms)
        return history, max(0, newest - self._retention_rows), newest

    def _twap_slices(self, user: str) -> History:
        if self._recording is None or user not in self._recording.users:
            return NOTHING
        return self._recording.users[user].twap_slices


def _notional(fills: Iterable[dict[str, Any]]) -> Decimal:
    return sum((Decimal(fill["px"]) * Decimal(fill["sz"]) for fill in fills), Decimal(0))


def _window(history: History, start_ms: int, end_ms: int | None, oldest: int, newest: int) -> tuple[int, int]:
    """Index range of the rows with `start_ms <= time <= end_ms` within `oldest` to `newest`."""
    low = bisect_left(history.times, start_ms, oldest, newest)
    high = newest if end_ms is None else bisect_right(history.times, end_ms, oldest, newest)
    return low, max(low, high)
