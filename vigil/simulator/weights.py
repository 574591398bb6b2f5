"""The server's side of the weight budget: who is answered and who gets 429. Pure.

A request costs 20 on arrival and one more for every 20 rows of its answer, charged when the
answer is made. A request is refused when its arrival would exceed the budget; refusals cost
nothing. *How* the real exchange measures its minute is unknown, hence three models:

- `sliding`: the charges of the last `period_seconds`;
- `fixed`: the charges since the last multiple of `period_seconds`;
- `bucket`: a bucket as large as the budget, refilled evenly; an answer may draw it below zero.

Accounts are kept per remote address. Time is an argument (seconds, any monotonic origin).
Must not know HTTP.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

WindowModel = Literal["sliding", "fixed", "bucket"]
WINDOW_MODELS: tuple[WindowModel, ...] = ("sliding", "fixed", "bucket")

ARRIVAL_WEIGHT = 20
ROWS_PER_WEIGHT = 20


def answer_weight(rows: int, *, rounding: Literal["ceil", "floor"] = "ceil") -> int:
    """What an answer of `rows` rows costs on top of the arrival."""
    return -(-rows // ROWS_PER_WEIGHT) if rounding == "ceil" else rows // ROWS_PER_WEIGHT


class _Sliding:
    def __init__(self, budget: int, period_seconds: float) -> None:
        self._period = period_seconds
        self._charges: deque[tuple[float, int]] = deque()
        self._spent = 0

    def spent(self, now: float) -> float:
        while self._charges and self._charges[0][0] <= now - self._period:
            self._spent -= self._charges.popleft()[1]
        return self._spent

    def charge(self, now: float, weight: int) -> None:
        self._charges.append((now, weight))
        self._spent += weight


class _Fixed:
    def __init__(self, budget: int, period_seconds: float) -> None:
        self._period = period_seconds
        self._window, self._spent = 0, 0

    def spent(self, now: float) -> float:
        window = int(now // self._period)
        if window != self._window:
            self._window, self._spent = window, 0
        return self._spent

    def charge(self, now: float, weight: int) -> None:
        self._spent = int(self.spent(now)) + weight


class _Bucket:
    """`spent` is what is missing from a full bucket."""

    def __init__(self, budget: int, period_seconds: float) -> None:
        self._per_second = budget / period_seconds
        self._missing, self._at = 0.0, 0.0

    def spent(self, now: float) -> float:
        self._missing = max(0.0, self._missing - max(0.0, now - self._at) * self._per_second)
        self._at = max(self._at, now)
        return self._missing

    def charge(self, now: float, weight: int) -> None:
        self._missing = self.spent(now) + weight


_MODELS: dict[WindowModel, type[_Sliding] | type[_Fixed] | type[_Bucket]] = {
    "sliding": _Sliding,
    "fixed": _Fixed,
    "bucket": _Bucket,
}


class WeightMeter:
    """The accounts of all remote addresses under one window model."""

    def __init__(self, model: WindowModel, weight_per_period: int, period_seconds: float) -> None:
        self._model, self._budget, self._period = model, weight_per_period, period_seconds
        self._accounts: dict[str, _Sliding | _Fixed | _Bucket] = {}

    def arrive(self, remote: str, now: float) -> bool:
        """Charge a request's arrival; False (and no charge) when the budget does not allow it."""
        account = self._account(remote)
        if account.spent(now) + ARRIVAL_WEIGHT > self._budget:
            return False
        account.charge(now, ARRIVAL_WEIGHT)
        return True

    def settle(self, remote: str, now: float, weight: int) -> None:
        """Charge an answer; it is made already, so this may overdraw."""
        self._account(remote).charge(now, weight)

    def spent(self, remote: str, now: float) -> float:
        """The weight that counts against `remote` at this moment."""
        return self._account(remote).spent(now)

    def _account(self, remote: str) -> _Sliding | _Fixed | _Bucket:
        account = self._accounts.get(remote)
        if account is None:
            account = self._accounts[remote] = _MODELS[self._model](self._budget, self._period)
        return account
