"""Who goes first: how fast each user's history is being lost, estimated from the fills that are known.

Theory of operation. The exchange shows about the newest 10,000 fills of a user (`REACH_ROWS`). What
a user has traded after the window stands in front of the window's rows, so of those at most
`within_reach` = 10,000 less the rows after the window can still be had, and as long as the user
trades on at `fills_per_hour`, so many of them are lost every hour until nothing is left. The rows
after the window are in `fills`, from archives; what was traded since the newest row known there
is extrapolated at the user's pace.

- *Order.* Reading a user costs weight, and meanwhile everybody else's rows are lost. Of two users
  the one with more rows lost per hour for each weight that saves them goes first (what Smith's rule
  is for jobs on one machine): `urgency` = pace / weight of what is within reach. The nearer a user
  is to the end, the cheaper it is and the higher it stands, so the deadline is in it as well.
  Orders that know more (odds, deadlines, the length of the queue) were no better on models:
  docs/urgency.md.
- *None.* A user with nothing left within reach has no urgency: nobody can save anything. Nor has
  one who stopped trading, and one who is expected to lose less than a fill a day. They are read in
  the order of their shard, after the urgent ones.
- *Odds.* Whether a window holds as many rows as are within reach is not known before it is read.
  The guess is as many as after it, with odds 1 : n that there are more than n times as many. Then
  a fill that is traded pushes one of the window out with the chance (rows after it / 10,000). The
  odds do not enter the order, but what people are told: what is being lost per hour, what is at stake.

An estimate ages, and archives are loaded while a run goes on: it is repeated beside the run, by one
worker of the database at a time. It counts along the key's index, no user further than to 10,000,
and writes only to users that are nobody's and only what has changed noticeably, so it never makes
a claim or a commit wait.

Must not know the exchange, nor how users are claimed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vigil.cursor import PAGE_ROWS
from vigil.db import Link, sql
from vigil.errors import StoreError

log = logging.getLogger(__name__)

REACH_ROWS = 10_000
"""The newest fills of a user that the exchange shows, as documented; measured: some users get more. Who has traded
more than this after the window goes last, not never."""

DAY_HOURS = 24.0
WEEK_HOURS = 168.0
"""The pace is the faster one of the last day known and of the last week: a newcomer's day, a weekly trader's week."""

EXTRAPOLATED_HOURS = WEEK_HOURS
"""Archives that end earlier are taken to end so long ago: no pace is known to last longer than it was measured."""

NEGLIGIBLE_PER_HOUR = 1 / 24
"""Who is expected to lose less than this is not urgent: less than a fill a day."""

REQUEST_WEIGHT, ROWS_A_WEIGHT = 20, 20
"""What reading costs: 20 a page, and 1 for every 20 rows."""

USERS_AT_ONCE = 1_000
"""Counted in one statement: at worst 10,000 index entries each, some seconds."""

STORED_AT_ONCE = 200
"""Written in one transaction: their rows are locked for a few milliseconds, in which claims pass them over."""

SAMPLE_USERS = 1_000
"""Looked at first for the newest row known, so that only the newest chunks must be searched for all of them."""

PAUSE_SECONDS = 120.0
"""Between two estimates; longer where one takes more than a twentieth of that."""

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Trades:
    """What is known of a user after the window: `rows`, counted up to `REACH_ROWS`.

    Of them those of the last day and week that anything is known of: who stopped trading before has none.
    """

    rows: int
    rows_of_day: int
    rows_of_week: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Rows after the window by now, the pace, and the urgency: rows an hour for each weight, or 0 for none."""

    rows_after: float
    fills_per_hour: float
    urgency: float

    @property
    def within_reach(self) -> float:
        """The most rows of the window that the exchange can still show."""
        return max(0.0, REACH_ROWS - self.rows_after)

    @property
    def lost_per_hour(self) -> float:
        """Rows of the window that an hour of delay is expected to cost."""
        return min(self.fills_per_hour, self.within_reach) * min(1.0, self.rows_after / REACH_ROWS)

    @property
    def at_stake(self) -> float:
        """Rows of the window that are expected to be within reach now."""
        if not 0 < self.rows_after < REACH_ROWS:
            return 0.0
        return self.rows_after * math.log(REACH_ROWS / self.rows_after)  # the mean of min(window, reach) at those odds


CALM = Estimate(0.0, 0.0, 0.0)
"""Of who has stopped trading, or has been read."""


def estimate(trades: Trades, known_hours: float, unknown_hours: float) -> Estimate:
    """Of a user, when archives are known for `known_hours` after the window, and nothing for `unknown_hours` since."""
    fills_per_hour = max(
        trades.rows_of_day / _between(1.0, known_hours, DAY_HOURS),
        trades.rows_of_week / _between(1.0, known_hours, WEEK_HOURS),
    )
    rows_after = trades.rows + fills_per_hour * _between(0.0, unknown_hours, EXTRAPOLATED_HOURS)
    found = Estimate(rows_after, fills_per_hour, fills_per_hour / weight(max(0.0, REACH_ROWS - rows_after)))
    return found if found.lost_per_hour >= NEGLIGIBLE_PER_HOUR else Estimate(rows_after, fills_per_hour, 0.0)


def weight(rows: float) -> float:
    """What it costs to read so many rows."""
    return REQUEST_WEIGHT * (1 + rows / PAGE_ROWS) + rows / ROWS_A_WEIGHT


def _between(least: float, value: float, most: float) -> float:
    return max(least, min(value, most))


class Urgency:
    """Keeps the estimates of the users that wait to be read, for a window that ends at `window_end_ms` (exclusive).

    `users` None means all of them: then only one worker of the database does it, whoever came first.
    `prefer` is told the listed users that are urgent, the most urgent first. `now_ms` is the exchange's
    time, which rehearsals move.
    """

    def __init__(
        self,
        link: Link,
        window_end_ms: int,
        *,
        users: Sequence[str] | None = None,
        prefer: Callable[[list[str]], Awaitable[None]] | None = None,
        now_ms: Callable[[], float] = lambda: time.time() * 1000,
    ) -> None:
        self._link = link
        self._end_ms = window_end_ms
        self._users = None if users is None else list(users)
        self._prefer = prefer
        self.now_ms = now_ms
        self._newest_ms: int | None = None  # never gets older, also when a list's active users are all read

    async def keep(self) -> None:
        """Estimate again and again until cancelled; if it can't be done, the run goes on in the order there is."""
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                await self.estimate()
            except StoreError as error:
                log.warning("whose history is being lost was not estimated: %s", error)
            await asyncio.sleep(max(PAUSE_SECONDS, 20 * (clock() - started)))

    async def estimate(self) -> dict[str, Estimate]:
        """Estimate once and store it; returns the estimates of those that traded lately. Idempotent.

        Returns nothing where another worker of the database is the one to do it.
        Raises: StoreError, StoreUnavailable.
        """
        if self._users is None and not (await self._fetch("urgency_turn"))[0][0]:
            return {}
        newest_ms = await self._newest()
        found: dict[str, Estimate] = {}
        async for waiting in self._waiting():
            trades = await self._count([row["user_address"] for row in waiting if row["unread"]], newest_ms)
            hours = ((newest_ms - self._end_ms) / HOUR_MS, (self.now_ms() - newest_ms) / HOUR_MS)
            estimates = {user: estimate(traded, *hours) for user, traded in trades.items()}
            urgent = {row["user_address"]: CALM for row in waiting if row["urgent"]}  # as far as was known
            await self._store(urgent | {user: one for user, one in estimates.items() if one.urgency or user in urgent})
            found |= estimates
        if self._prefer is not None:
            await self._prefer(sorted((u for u in found if found[u].urgency), key=lambda u: -found[u].urgency))
        return found

    async def _newest(self) -> int:
        """The newest fill known of any user, ms; the window's end where none is known after it."""
        newest_ms = self._newest_ms or self._end_ms
        samples = (SAMPLE_USERS, None) if self._newest_ms is None else (None,)
        for sample in samples:
            seen = (await self._fetch("urgency_newest", newest_ms, sample))[0][0]
            newest_ms = max(newest_ms, seen or 0)
        self._newest_ms = newest_ms
        return newest_ms

    async def _waiting(self) -> AsyncIterator[list[Any]]:
        """The users that are nobody's, some at a time: address, whether there is something to read, and to calm."""
        if self._users is not None:
            for i in range(0, len(self._users), USERS_AT_ONCE):
                yield await self._fetch("urgency_listed", self._end_ms, self._users[i : i + USERS_AT_ONCE])
            return
        place = (-1, "")
        while rows := await self._fetch("urgency_users", self._end_ms, *place, USERS_AT_ONCE):
            yield rows
            place = (rows[-1]["shard"], rows[-1]["user_address"])

    async def _count(self, users: Sequence[str], newest_ms: int) -> dict[str, Trades]:
        """What those of the users have traded that traded within the last week known."""
        day_ms, week_ms = (max(self._end_ms, newest_ms - int(hours * HOUR_MS)) for hours in (DAY_HOURS, WEEK_HOURS))
        rows = await self._fetch("urgency_trades", users, self._end_ms, day_ms, week_ms, REACH_ROWS)
        return {row["user_address"]: Trades(row["rows"], row["rows_of_day"], row["rows_of_week"]) for row in rows}

    async def _store(self, estimates: Mapping[str, Estimate]) -> None:
        told = [(user, round(one.rows_after), one.fills_per_hour, one.urgency) for user, one in estimates.items()]
        for i in range(0, len(told), STORED_AT_ONCE):
            await self._fetch("urgency_store", *map(list, zip(*told[i : i + STORED_AT_ONCE], strict=True)))

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        return await self._link.run(lambda connection: connection.fetch(sql(statement), *arguments))
