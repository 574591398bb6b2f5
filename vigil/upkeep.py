"""Upkeep of a hypertable: bring `fills_daily` up to date, pack the chunks that the backfill has left.

Must not know how rows come in. Theory of operation: a backfill goes user by user, so each of its batches
writes into chunks of all the window, to the end. TimescaleDB's own policies go by a chunk's age: they would
pack chunks that the next batch unpacks, and refresh months that the next batch makes stale. So it is done
when the backfill is: at the end of the last run, by `vigil-backfill maintain`, or by an hourly job. Packing
locks a chunk against writers, for minutes if it is large; so a worker that begins meanwhile ends it, within
a second (the job, which is SQL alone, looks between two steps: migrations/006_hypertable.sql).

A month is refreshed, and a chunk is packed, in a transaction of its own: stopped or killed at any moment, all that
was done stays done, and the next upkeep finds what is left by itself. Months are refreshed from the oldest
on: below the newest day refreshed, the aggregate answers from what was refreshed and from nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from vigil.db import Connection, session, sql
from vigil.hypertable import lacking, read_shape
from vigil.migrate import PLAIN_POSTGRES, attempted

Tell = Callable[[str], object]
T = TypeVar("T")

QUIET_SECONDS = 10.0
"""Between two steps that are told at the end of a run, which there may be a hundred of in a second."""

LOOK_SECONDS = 1.0
"""Between two looks for workers that have begun: so long they may wait for a chunk that is being packed."""


@dataclass(slots=True)
class Upkept:
    """What was done, and what was left for later."""

    refreshed: int = 0
    """Months."""
    packed: int = 0
    """Chunks."""
    refused: int = 0
    """Chunks that the database would not pack; each was told."""
    waiting: int = 0
    """Chunks into which users that are still to be read may bring rows."""
    gave_way: bool = False
    """Workers are at it: the last of them does the rest, or the next upkeep."""
    months: int = field(default=0, compare=False)
    """Behind when it began."""
    chunks: int = field(default=0, compare=False)
    """To be packed, once the months are done and they were counted."""
    step: str = field(default="", compare=False)
    """What is under way."""


async def maintain(
    dsn: str, tell: Tell, *, now: bool = False, quiet: bool = False, done: Upkept | None = None
) -> Upkept:
    """Do what is due, telling each step; `now` neither gives way to workers nor waits for users to be read.

    `quiet` tells a step now and then, the sum, and nothing where there is nothing to do; `done` is kept up to date
    meanwhile. May be cancelled at any time.
    Raises: StoreError, StoreUnavailable; what was done before stays done.
    """
    done = done or Upkept()
    async with session(dsn) as connection, session(dsn) as looking:
        shape = await read_shape(connection)
        if not shape.takes_upkeep:
            if not quiet:
                tell(f"nothing to tend: {next(lacking(shape), PLAIN_POSTGRES)}")
            return done
        if not await connection.fetchval(sql("upkeep_turn")):
            tell("another upkeep is under way, and does what there is to do")
            return done
        if shape.columnstore_policy is not None and not quiet:
            tell(f"chunks are packed by the policy that somebody has added (job {shape.columnstore_policy})")
        upkeep = _Upkeep(connection, looking, tell if not quiet else _now_and_then(tell), now, done)
        try:
            await upkeep.refresh()
            await upkeep.pack()
        except _GiveWay:
            upkeep.done.gave_way = True
    _sum_up(upkeep.done, tell, quiet=quiet)
    return upkeep.done


class _GiveWay(Exception):
    """A worker lives."""


@dataclass(slots=True)
class _Upkeep:
    connection: Connection
    looking: Connection
    """A second session, to look for workers while the first is at work."""
    tell: Tell
    now: bool
    done: Upkept

    async def refresh(self) -> None:
        """Bring every month that is behind up to date. Raises: _GiveWay."""
        months = await self.connection.fetch(sql("upkeep_months"))
        self.done.months = len(months)
        for place, month in enumerate(months, 1):
            span = (month["from_time"], month["until_time"])
            self.done.step = f"fills_daily of {span[0]:%Y-%m}"
            await self._undisturbed(self.connection.execute(sql("upkeep_refresh"), *span))
            self.done.refreshed += 1
            self.tell(f"fills_daily: {span[0]:%Y-%m} is up to date ({place} of {len(months)})")

    async def pack(self) -> None:
        """Pack every chunk that nobody will write into. Raises: _GiveWay."""
        chunks = await self.connection.fetch(sql("upkeep_chunks"))
        due = [chunk for chunk in chunks if self.now or not chunk["waits"]]
        self.done.waiting, self.done.chunks = len(chunks) - len(due), len(due)
        for place, chunk in enumerate(due, 1):
            span = _span(chunk["from_time"], chunk["until_time"])
            self.done.step = f"packing fills of {span}, {chunk['bytes'] / 1e6:,.1f} MB"
            refusal = await self._undisturbed(attempted(self.connection, sql("upkeep_compress"), chunk["chunk"]))
            if refusal is not None:
                self.done.refused += 1
                self.tell(f"fills of {span} stay as they are: {refusal}")
                continue
            self.done.packed += 1
            packed = "packed again" if chunk["partial"] else "packed"
            self.tell(f"fills of {span} are {packed}: {chunk['bytes'] / 1e6:,.1f} MB before ({place} of {len(due)})")

    async def _undisturbed(self, step: Coroutine[Any, Any, T]) -> T:
        """The result of `step`, which is cancelled, and rolled back, when there is a worker. Raises: _GiveWay."""
        task = asyncio.ensure_future(step)
        try:
            while not task.done():
                if not self.now and await self.looking.fetchval(sql("upkeep_busy")):
                    raise _GiveWay
                await asyncio.wait({task}, timeout=LOOK_SECONDS)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


def _now_and_then(tell: Tell) -> Tell:
    clock = asyncio.get_running_loop().time
    told_at = clock()

    def told(text: str) -> None:
        nonlocal told_at
        if clock() - told_at >= QUIET_SECONDS:
            told_at = clock()
            tell(text)

    return told


def _sum_up(done: Upkept, tell: Tell, *, quiet: bool) -> None:
    if quiet and (done.refreshed or done.packed or done.refused):
        refused = f", {done.refused:,} would not be (`vigil-backfill maintain` tells why)" if done.refused else ""
        tell(f"tended: {done.refreshed:,} months of fills_daily are up to date, {done.packed:,} chunks packed{refused}")
    if done.gave_way:
        tell("workers are at it: the last one to end does the rest, or `vigil-backfill maintain`")
    if done.waiting:
        tell(
            f"{done.waiting:,} chunks are not packed yet: users that are still to be read may have rows there"
            " (`vigil-backfill maintain --now` packs them all the same)"
        )
    if not quiet and not (done.refreshed or done.packed or done.refused or done.waiting or done.gave_way):
        tell("nothing to do: fills_daily is up to date, and every chunk that can be packed is")


def _span(from_time: datetime, until_time: datetime) -> str:
    return f"[{from_time:%Y-%m-%d}, {until_time:%Y-%m-%d})"
