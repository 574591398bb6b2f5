"""What the database knows of a lane, in memory: for the virtual clock, which no real server's answer can keep up with.

The same arithmetic as `backfill_take_share` and `retire_workers.sql`; that it is the same is tested
in `tests/edges/test_lanes.py`. `WayToLedger` is what a `Lane` needs of a `Link`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

from vigil.db import Connection, Link, sql
from vigil.limiter import OVERSHOOT_WEIGHT

T = TypeVar("T")


@dataclass
class Row:
    """One worker, as last told."""

    share: int = 0
    used: int = 0
    hungry: bool = False
    period: float = 60.0
    told: list[tuple[int, float]] = field(default_factory=list)
    """Weight, and when it leaves the period."""

    @property
    def claim(self) -> int:
        return max(self.share, self.used)


class LaneLedger:
    """One lane; times are the caller's."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.departed: list[tuple[int, float]] = []

    def __repr__(self) -> str:
        return f"<LaneLedger {self.rows}, departed {self.departed}>"

    def join(self, worker: int) -> None:
        self.rows[worker] = Row()

    def hungry_others(self, worker: int) -> int:
        return sum(row.hungry for other, row in self.rows.items() if other != worker)

    def claimed(self, now: float, *, but: int | None = None) -> int:
        """By the living and what the departed have left of the period."""
        living = sum(row.claim for worker, row in self.rows.items() if worker != but)
        return living + sum(weight for weight, expiry in self.departed if expiry > now)

    def take_share(
        self,
        now: float,
        worker: int,
        wanted: int,
        held: int,
        allowed: int,
        overshoot: int,
        hungry: bool,
        used: int,
        period: float,
        told: list[tuple[int, float]],
    ) -> int | None:
        if worker not in self.rows:
            return None
        spenders = sum(row.share > 0 for other, row in self.rows.items() if other != worker)
        free = allowed - overshoot * spenders - self.claimed(now, but=worker)
        granted = max(held, min(wanted, free))
        settled = [(weight, now + left) for weight, left in told]
        self.rows[worker] = Row(granted, used, hungry, period, settled)
        return granted

    def bury(self, now: float, worker: int) -> None:
        """The worker is no more: what it told stays until it leaves the period, the rest as if spent just now."""
        row = self.rows.pop(worker, None)
        if row is None:
            return
        told = [(weight, expiry) for weight, expiry in row.told if expiry > now]
        most = max(row.share + OVERSHOOT_WEIGHT if row.share else 0, row.used)
        untold = most - sum(weight for weight, _ in told)
        self.departed += [*told, *([(untold, now + row.period)] if untold > 0 else [])]


class WayToLedger:
    """Link and connection in one, for the two statements that a lane has.

    Each takes `seconds` of the loop's time to arrive, and its answer as many. Once `cut`, nothing is answered.
    """

    def __init__(self, ledger: LaneLedger, seconds: float = 0.0) -> None:
        self._ledger, self._seconds = ledger, seconds
        self._cut = False

    @property
    def as_link(self) -> Link:
        return cast("Link", self)

    def cut(self) -> None:
        self._cut = True

    async def run(self, operation: Callable[[Connection], Awaitable[T]], *, patience: float | None = None) -> T:
        return await operation(cast("Connection", self))

    async def fetchval(self, statement: str, *arguments: Any) -> object:
        await self._travel()
        answer = self._answer(statement, *arguments)
        await self._travel()
        return answer

    async def _travel(self) -> None:
        await asyncio.sleep(self._seconds)
        if self._cut:
            await asyncio.Event().wait()

    def _answer(self, statement: str, worker: int, *rest: Any) -> int | None:
        if statement == sql("lane_others"):
            return self._ledger.hungry_others(worker)
        assert statement == sql("take_share")
        wanted, held, allowed, overshoot, hungry, used, minute, weights, lefts = rest
        assert isinstance(minute, timedelta)
        return self._ledger.take_share(
            asyncio.get_running_loop().time(),
            worker,
            wanted,
            held,
            allowed,
            overshoot,
            hungry,
            used,
            minute.total_seconds(),
            list(zip(weights, lefts, strict=True)),
        )
