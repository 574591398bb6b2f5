"""How a run went, minute by minute, kept in the database: what `status` and `report` tell of pace and budget.

One row a lane and period, the difference between two looks at the run's tally. What a run loses with a
kill is its last minute of this, and nothing else. Nobody depends on it, so nothing waits for it, and a
sample that can't be written is a warning: it goes along with the next one, at the time it was taken.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from vigil.db import Connection, Link, sql
from vigil.errors import VigilError
from vigil.tally import Tally

log = logging.getLogger(__name__)

LONGEST_SECONDS = 60.0
SHORTEST_SECONDS = 1.0
"""Of a sample: a period of the budget, within these (a rehearsal's period may be milliseconds)."""

LOOKS = 12
"""At the shares of a lane, in one sample: they change when workers come and go."""

KEPT = 1440
"""Samples of a lane that wait for a database that does not take them; the oldest are let go."""

THIN_EVERY = 60
"""Samples between two times that old ones are summed up, by whichever worker comes first."""

PATIENCE_SECONDS = 5.0
"""For one try: the run has a longer one for what matters."""

COUNTED = ("requests", "pauses", "inserted", "received", "users_done", "users_failed")
"""What the tally counts of the process as a whole."""


class Row(NamedTuple):
    """A row of `backfill_samples`, as far as the worker itself does not say it."""

    lane: str
    seconds: float
    allowed_weight: int
    spent_weight: int
    requests: int = 0
    pauses: int = 0
    inserted: int = 0
    received: int = 0
    users_done: int = 0
    users_failed: int = 0
    faults: str = "{}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows of a span that ended at `ended` (the loop's clock, seconds), which was `at` by the database's."""

    ended: float
    rows: tuple[Row, ...]
    at: datetime | None = None


class Samples:
    """One worker's; `look` brings the tally up to date, `lanes` are the names of its lanes, in the tally's order."""

    def __init__(
        self, link: Link, worker_id: int, lanes: Sequence[str], period_seconds: float, look: Callable[[], Tally]
    ) -> None:
        self.interval = min(max(period_seconds, SHORTEST_SECONDS), LONGEST_SECONDS)
        self._link = link
        self._worker_id = worker_id
        self._lanes = tuple(lanes)
        self._period_seconds = period_seconds
        self._look = look
        self._waiting: deque[Sample] = deque(maxlen=KEPT)
        self._taken = 0
        self._begun = False
        self._since = self._looked = 0.0
        self._allowed = [0.0] * len(self._lanes)
        self._spent = [0] * len(self._lanes)
        self._counted = dict.fromkeys(COUNTED, 0)
        self._faults: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Samples of {self._worker_id}, {self._taken} taken, {len(self._waiting)} not written yet>"

    async def keep(self) -> None:
        """Take and write samples until cancelled; the last one is for `finish`."""
        self._begun = True
        self._since = self._looked = asyncio.get_running_loop().time()
        while True:
            for _ in range(LOOKS):
                await asyncio.sleep(self.interval / LOOKS)
                self._accrue(self._look())
            await self._tell(thin=self._taken % THIN_EVERY == 0)

    async def finish(self) -> None:
        """Write what there is since the last sample. Raises nothing: the run is over, however it ended."""
        if self._begun:
            await self._tell(thin=False)

    def _accrue(self, tally: Tally) -> None:
        """What the lanes may have spent since the last look, at the shares of now."""
        now = asyncio.get_running_loop().time()
        for place, lane in enumerate(tally.lanes):
            self._allowed[place] += lane.share_weight * (now - self._looked) / self._period_seconds
        self._looked = now

    def _take(self) -> None:
        """The span since the last sample becomes one."""
        tally = self._look()
        self._accrue(tally)
        counted = {name: int(getattr(tally, name)) for name in COUNTED}
        faults = {str(kind): count - self._faults.get(kind, 0) for kind, count in tally.faults.items()}
        rows = [
            Row(name, self._looked - self._since, round(allowed), lane.spent_weight - spent)
            for name, lane, allowed, spent in zip(self._lanes, tally.lanes, self._allowed, self._spent, strict=True)
        ]
        whole: dict[str, Any] = {name: counted[name] - self._counted[name] for name in COUNTED}
        told = json.dumps({kind: count for kind, count in faults.items() if count})
        rows[0] = rows[0]._replace(faults=told, **whole)
        self._waiting.append(Sample(self._looked, tuple(rows)))
        self._taken += 1
        self._since, self._counted, self._faults = self._looked, counted, dict(tally.faults)
        self._allowed = [0.0] * len(self._lanes)
        self._spent = [lane.spent_weight for lane in tally.lanes]

    async def _tell(self, *, thin: bool) -> None:
        self._take()
        try:
            await self._link.run(self._write, patience=PATIENCE_SECONDS, timeout=PATIENCE_SECONDS)
            if thin:
                await self._link.run(lambda connection: connection.execute(sql("thin_samples")), patience=0)
        except VigilError as error:
            log.warning("how the run goes could not be written down, it is tried again with the next sample: %s", error)

    async def _write(self, connection: Connection) -> None:
        """All that wait; tried again it writes none twice, for each keeps the time it was given."""
        now, clock = await connection.fetchval(sql("clock")), asyncio.get_running_loop().time()
        waiting = [
            one if one.at else replace(one, at=now - timedelta(seconds=clock - one.ended)) for one in self._waiting
        ]
        self._waiting.clear()
        self._waiting.extend(waiting)
        told = [(one.at, *row) for one in waiting for row in one.rows]
        columns = [list(column) for column in zip(*told, strict=True)]
        await connection.execute(sql("save_samples"), self._worker_id, socket.gethostname(), *columns)
        self._waiting.clear()
