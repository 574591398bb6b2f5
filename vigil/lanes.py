"""A lane: the workers behind one address, and their shares of its budget.

The exchange counts weight by address, so workers that share one must share its minute. They agree
through the database, each telling once a second what it has spent and taking its share:

- The *claim* of a worker is the greater of its share and of what it has spent within the last
  period. Its limiter never lets it spend more than its share, so until its next report a claim can
  only overstate what stands in the exchange's books. The claims of a lane, and what workers that
  are gone have left in the current period, never add up to more than the address is allowed.
- A share shrinks at once, and before the others hear of it; it grows only by what the others'
  claims leave. So a newcomer starts with what is free, and takes over weight as fast as it leaves
  the books of those who had it: nothing is spent twice, and nothing lies idle for long.
- Shares are equal among those who want weight; a worker with nothing to fetch yields its own.
- A worker that dies leaves its claim behind: what it had told, until it leaves the period; the
  rest as if spent at the moment it was found dead. A restart within the minute goes on from there.

Each limiter may overshoot its share by the rows of the last answer, and only one of a lane can
be covered by the exchange's own rule (it lets a request in, then counts its rows); every further
worker costs the `overshoot` of the host's `Prices` of the address's budget. So use one process an address, and its
concurrency; several are safe, not better.
"""

from __future__ import annotations

import asyncio

from vigil.claims import claim_lost
from vigil.db import Connection, Link, seconds, sql
from vigil.limiter import EXCHANGE_PRICES, Prices, WeightLimiter
from vigil.settings import Settings
from vigil.sources import Source, main_source

REPORT_SECONDS = 1.0
"""Between two reports; a twelfth of the period where that is shorter, but not less than a tenth of this."""


def fair_share(allowed: int, *, hungry: bool, others_hungry: int, prices: Prices = EXCHANGE_PRICES) -> tuple[int, int]:
    """The share of a worker among those of its lane that want weight, and what they may have together; both weight."""
    together = max(allowed - prices.overshoot * others_hungry, min(allowed, prices.base * (others_hungry + 1)))
    if others_hungry and not hungry:
        return 0, together
    return together // (others_hungry + 1), together


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
        self._admitted = -1

    def __repr__(self) -> str:
        return f"<Lane of {self._worker_id}, {self._limiter.budget.weight_per_period} of {self._allowed}>"

    async def keep(self) -> None:
        """Agree with the others again and again until cancelled. Raises: as `agree`."""
        pause = max(min(REPORT_SECONDS, self._period_seconds / 12), REPORT_SECONDS / 10)
        while True:
            await asyncio.sleep(pause)
            await self.agree()

    async def agree(self) -> None:
        """Tell the lane what this worker has spent and take its share.

        Raises: ClaimLost when another worker took over, StoreUnavailable.
        """
        limiter = self._limiter
        hungry = limiter.waiting > 0 or limiter.budget.in_flight > 0 or limiter.admitted != self._admitted
        self._admitted = limiter.admitted

        async def agree(connection: Connection) -> int | None:
            others = int(await connection.fetchval(sql("lane_others"), self._worker_id))
            wanted, together = fair_share(
                self._allowed, hungry=hungry, others_hungry=others, prices=limiter.budget.prices
            )
            held = min(wanted, limiter.budget.weight_per_period)
            limiter.resize(held)  # before anybody is told that the rest is free
            return await self._take(connection, wanted, held, together, hungry)

        share = await self._link.run(agree)
        if share is None:
            raise claim_lost()
        limiter.resize(share)

    async def leave(self) -> None:
        """Spend nothing more, and tell exactly what was spent; the others need not assume the worst."""
        self._limiter.resize(0)

        async def leave(connection: Connection) -> int | None:
            return await self._take(connection, 0, 0, 0, hungry=False)

        await self._link.run(leave, patience=2)

    async def _take(self, connection: Connection, wanted: int, held: int, together: int, hungry: bool) -> int | None:
        now = asyncio.get_running_loop().time()
        settled = self._limiter.budget.settled(now)
        share: int | None = await connection.fetchval(
            sql("take_share"),
            self._worker_id,
            wanted,
            held,
            together,
            hungry,
            self._limiter.budget.claimed(now),
            seconds(self._period_seconds),
            [weight for weight, _ in settled],
            [left for _, left in settled],
        )
        return share
