"""A lane: the workers behind one address, and their shares of its budget.

The exchange counts weight by address, so workers that share one must share its minute. They agree
through the database, each telling once a second what it has spent and taking its share:

- The *claim* of a worker is the greater of its share and of what it has spent within the last
  period. Its limiter never lets it spend more than its share, so until its next report a claim can
  only overstate what stands in the exchange's books. The claims of a lane, and what workers that
  are gone have left in the current period, never add up to more than the address is allowed and
  one overshoot.
- A share shrinks at once, and before the others hear of it; it grows only by what the others'
  claims leave. So a newcomer starts with what is free, and takes over weight as fast as it leaves
  the books of those who had it: nothing is spent twice, and nothing lies idle for long.
- Shares are equal among those who want weight; a worker with nothing to fetch yields its own.
- A worker that dies leaves its claim behind: what it had told, until it leaves the period; the
  rest, and an overshoot, as if spent at the moment it was found dead. A restart within the minute
  goes on from there, and with a bucket's debt of one overshoot, which a period does not wipe out.
- A share lapses when the lane has not been heard for so long that others may take its worker for
  dead: one that slept, or lost the database, asks for nothing until it has agreed anew.

Each limiter may overshoot its share by the rows of the last answer, and only one of a lane can
be covered by the exchange's own rule (it lets a request in, then counts its rows); every further
worker that has a share costs the `overshoot` of the host's `Prices` of the address's budget. So use one
process an address, and its concurrency; several are safe, not better: with more than ten some have to
wait until others have nothing left to fetch.
"""

from __future__ import annotations

import asyncio
import math

from vigil.claims import GRACE_SECONDS, claim_lost
from vigil.db import Connection, Link, seconds, sql
from vigil.limiter import EXCHANGE_PRICES, Prices, WeightLimiter
from vigil.settings import Settings
from vigil.sources import Source, main_source

REPORT_SECONDS = 1.0
"""Between two reports; a twelfth of the period where that is shorter, but not less than a tenth of this."""


def fair_share(allowed: int, *, hungry: bool, others_hungry: int, prices: Prices = EXCHANGE_PRICES) -> int:
    """The share of a worker among those of its lane that want weight."""
    if others_hungry and not hungry:
        return 0
    together = allowed - prices.overshoot * others_hungry
    return max(together // (others_hungry + 1), prices.base)  # with less than that nobody could ask for anything


class Lane:
    """One worker's part in its lane: keeps its `limiter` at its share."""

    def __init__(
        self, link: Link, settings: Settings, worker_id: int, limiter: WeightLimiter, source: Source | None = None
    ) -> None:
        self._link = link
        self._worker_id = worker_id
        self._limiter = limiter
        self._allowed = (source or main_source(settings)).weight_per_minute
        self._period_seconds = settings.weight_period_seconds
        self._lapse_seconds = min(GRACE_SECONDS * 2 / 3, settings.lease_seconds / 2)  # then requests may be under way
        self._lapse: asyncio.TimerHandle | None = None
        self._admitted = -1
        self.heard_at = -math.inf
        """The loop's clock when the database last answered."""
        limiter.budget.owe(limiter.budget.prices.overshoot)  # what a predecessor may have left in the exchange's bucket

    def __repr__(self) -> str:
        return f"<Lane of {self._worker_id}, {self._limiter.budget.weight_per_period} of {self._allowed}>"

    async def keep(self) -> None:
        """Agree with the others again and again until cancelled. Raises: as `agree`."""
        pause = max(min(REPORT_SECONDS, self._period_seconds / 12, self._lapse_seconds / 2), REPORT_SECONDS / 10)
        while True:
            await asyncio.sleep(pause)
            await self.agree()

    async def agree(self) -> None:
        """Tell the lane what this worker has spent and take its share.

        Raises: ClaimLost when another worker took over, StoreUnavailable.
        """
        limiter, loop = self._limiter, asyncio.get_running_loop()
        hungry = limiter.queue.waiting > 0 or limiter.budget.in_flight > 0 or limiter.admitted != self._admitted
        self._admitted = limiter.admitted
        asked_at = 0.0

        async def agree(connection: Connection) -> int | None:
            nonlocal asked_at
            asked_at = loop.time()
            others = int(await connection.fetchval(sql("lane_others"), self._worker_id))
            wanted = fair_share(self._allowed, hungry=hungry, others_hungry=others, prices=limiter.budget.prices)
            held = min(wanted, limiter.budget.weight_per_period)
            limiter.resize(held)  # before anybody is told that the rest is free
            return await self._take(connection, wanted, held, hungry)

        share = await self._link.run(agree)
        self.heard_at = loop.time()
        if share is None:
            limiter.resize(0)
            raise claim_lost()
        self._hold(share, asked_at + self._lapse_seconds)

    async def leave(self) -> None:
        """Spend nothing more, and tell exactly what was spent; the others need not assume the worst."""
        self._hold(0, 0.0)

        async def leave(connection: Connection) -> int | None:
            return await self._take(connection, 0, 0, hungry=False)

        await self._link.run(leave, patience=2)

    def _hold(self, share: int, until: float) -> None:
        """Allow the share, until then or until it is agreed on anew."""
        loop = asyncio.get_running_loop()
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None
        if loop.time() >= until:
            share = 0
        if share:
            self._lapse = loop.call_at(until, self._limiter.resize, 0)
        self._limiter.resize(share)

    async def _take(self, connection: Connection, wanted: int, held: int, hungry: bool) -> int | None:
        now = asyncio.get_running_loop().time()
        settled = self._limiter.budget.settled(now)
        share: int | None = await connection.fetchval(
            sql("take_share"),
            self._worker_id,
            wanted,
            held,
            self._allowed,
            self._limiter.budget.prices.overshoot,
            hungry,
            self._limiter.budget.claimed(now),
            seconds(self._period_seconds),
            [weight for weight, _ in settled],
            [left for _, left in settled],
        )
        return share
