"""One run: opens everything, lets it flow, stops it in order, sums it up.

    claims -> pagers (many) -> queue -> writer (one) -> commit

Theory of operation. The writer, the lease and the display are tasks of one group; the pagers
are a group of their own inside it. When the pagers end, of themselves, by the first signal, or
because the exchange answers nobody any more, the queue is drained (the writer calls `task_done`
only after a commit), and then the writer is cancelled. There is no sentinel to lose: if the
writer dies, the outer group takes everything down with it, and whatever was not committed is
read again by the next claim. The first SIGINT or SIGTERM drops what is in flight and commits
what is queued; the second stops at once. Neither can lose or repeat a row. At a limit (`allowance`)
every pager ends with the page it has, and the run as if nobody were left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from vigil.allowance import Allowance, Limit, LimitReached
from vigil.api import FetchPage
from vigil.beside import LARGE_BYTES, beside
from vigil.blame import SILENT_USERS, Blame
from vigil.claims import EVERYBODY, Shard, Window
from vigil.db import Link, session
from vigil.errors import (
    ExchangeRefused,
    ExchangeUnavailable,
    MalformedReply,
    StoreError,
    UsageError,
    VigilError,
)
from vigil.fills import Page, Stream
from vigil.hypertable import arrange
from vigil.judge import Judge
from vigil.logs import about
from vigil.migrate import Migration, migrate
from vigil.pager import read_user
from vigil.samples import Samples
from vigil.settings import Settings
from vigil.sources import Source, main_source
from vigil.store import WRITER_SESSION, Chunk, Committed, Store, check_fills_table, prepare_staging
from vigil.tally import LaneState, Reading, Tally
from vigil.upkeep import Upkept, maintain
from vigil.urgency import Urgency
from vigil.worker import Worker, first_cause, signals
from vigil.writer import BatchLimits, ChunkQueue, write_batches

log = logging.getLogger(__name__)

COUNT_SECONDS = 15.0
"""Between two counts of the users that are left; longer where one takes more than a twentieth of that."""


class Twap(StrEnum):
    """Whose TWAP slices to read: they are not among a user's fills."""

    AUTO = "auto"  # of those whose position chain they might mend
    ALWAYS = "always"
    NEVER = "never"


async def prepare_database(dsn: str, notice: Callable[[str], None] = log.info) -> list[Migration]:
    """Bring the schema up to date, after a look at a `fills` table that may be there; returns what was applied.

    `notice` is told what people should know, such as that there is no TimescaleDB.
    Raises: UsageError, SchemaMismatch, StoreUnavailable.
    """
    async with session(dsn) as connection:
        await check_fills_table(connection)
        applied = await migrate(connection, notice=notice)
        await arrange(connection, notice)
    return applied


async def tend(
    dsn: str, tell: Callable[[str], object], *, now: bool = False, quiet: bool = False, done: Upkept | None = None
) -> tuple[Upkept | None, int | None]:
    """The upkeep, as far as a signal lets it come: what it did, or the signal.

    Raises: StoreError, StoreUnavailable.
    """
    stopped: list[int] = []

    def stop(signum: int, task: asyncio.Task[Any]) -> None:
        stopped.append(signum)
        task.cancel()

    with signals(stop):
        try:
            return await maintain(dsn, tell, now=now, quiet=quiet, done=done), None
        except asyncio.CancelledError:
            if not stopped:
                raise
            tell("the upkeep was interrupted: what is done stays done, `vigil-backfill maintain` goes on")
            return None, stopped[0]


class Wrote(Protocol):
    """What a run, or a load, has written, and the signal that ended it."""

    inserted: int
    updated: int
    signal: int | None


async def tend_after(tally: Wrote, settings: Settings, dsn: str, tell: Callable[[str], object]) -> None:
    """The upkeep at the end of what wrote something. That has succeeded, whatever comes of this."""
    if not settings.maintain or tally.signal is not None or not tally.inserted + tally.updated:
        return
    try:
        _, tally.signal = await tend(dsn, tell, quiet=True)
    except VigilError as error:
        tell(f"not all was tended: {error} The fills are in; `vigil-backfill maintain` tries it again")


@dataclass(frozen=True, slots=True)
class Finished:
    """A list of a user's that was read to its end, or failed with `error`; `reading` is what this run read of it."""

    user: str
    stream: Stream
    reading: Reading | None
    error: str | None


Display = Callable[[Callable[[], Tally]], Coroutine[Any, Any, None]]


class Run:
    """One worker's run over a window; `tally` is live, `execute` may be called once.

    `source` is the host to read from, None the exchange; `ask` sends those of the `users` that are
    complete for their window there too, for what other sources did not have. `display` is a
    coroutine function that shows the tally, which the function it is given brings up to date, until it is
    cancelled; `on_user` is told each user that is read, or failed, once that is committed. `urgency`
    decides who goes first; it may be replaced before `execute`. `max_weight` and `max_seconds` (of reading) end
    the run early (vigil.allowance).
    Raises: UsageError for TWAP slices of a source that serves none, and for less weight than a page may cost.
    """

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        window: Window,
        *,
        users: Sequence[str] | None = None,
        shard: Shard = EVERYBODY,
        limit: int | None = None,
        retry: bool = False,
        twap: Twap = Twap.AUTO,
        volume_check: bool = False,
        source: Source | None = None,
        ask: bool = False,
        max_weight: int | None = None,
        max_seconds: float | None = None,
        display: Display | None = None,
        on_user: Callable[[Finished], None] = lambda _: None,
    ) -> None:
        self.tally = Tally(period_seconds=settings.weight_period_seconds, queue_capacity_pages=settings.queue_pages)
        self.source = source or main_source(settings)
        if twap is Twap.ALWAYS and not self.source.twap:
            raise UsageError(f"{self.source.name} serves no TWAP slices (`twap = false`), so --twap can't be always.")
        self._settings = settings
        self._display = display
        self._on_user = on_user
        self._queue = ChunkQueue(settings.queue_pages)
        self._worker = Worker(
            settings,
            dsn,
            window,
            enroll=True,
            shard=shard,
            users=users,
            limit=limit,
            retry=retry,
            slices=twap is Twap.ALWAYS,
            source=self.source,
            ask=ask,
        )
        self._claims, self._api = self._worker.claims, self._worker.api
        if max_weight is not None and max_weight < self._api.prices.full_page:
            raise UsageError(
                f"--max-weight {max_weight} is less than a page of {self.source.name} may cost:"
                f" {self._api.prices.full_page}."
            )
        self._max_seconds = max_seconds
        self._allowance = self._api.allowance = Allowance(max_weight, on_reached=self._reached)
        name = self._worker.session
        writing = {**name, **WRITER_SESSION}
        self._writing = Link(dsn, settings, prepare=prepare_staging, server_settings=writing)
        self._store = Store(
            self._writing, self._worker.id, lease_seconds=settings.lease_seconds, keeps_all=self.source.keeps_all
        )
        self._counting = Link(dsn, settings)
        lanes = [self.source.lane(lane.name) for lane in self._api.lanes]
        self._samples = Samples(self._counting, self._worker.id, lanes, settings.weight_period_seconds, self.look)
        self._judging = Link(dsn, settings, server_settings=name)
        ask_for_slices = twap is Twap.AUTO and self.source.twap
        self._judge = Judge(self._judging, shard.range, users=users, ask_for_slices=ask_for_slices)
        self._estimating = Link(dsn, settings, server_settings=name)
        prefer = None if users is None else self._claims.prefer
        self.urgency = Urgency(self._estimating, window.end_ms, users=users, prefer=prefer)
        self._fetch_volume = self._api.get_lifetime_volume if volume_check else None
        self._blame = Blame(max(SILENT_USERS, 2 * self.pagers), settings.outage_patience_seconds)
        self._pages = {stream: self._counted(fetch) for stream, fetch in self._worker.pages.items()}
        self._fetching: asyncio.Task[None] | None = None
        self._started = 0.0
        self._stopped_by: VigilError | None = None

    @property
    def pagers(self) -> int:
        """Users paged at the same time, by all lanes."""
        return self._worker.pagers

    @property
    def rows_in_memory(self) -> int:
        """The most rows that may wait for the database at once."""
        settings = self._settings
        return (settings.queue_pages + self.pagers + 1) * self.source.page_rows + settings.batch_rows

    async def execute(self) -> Tally:
        """Run to the end, or to a signal, and return the tally.

        Raises: VigilError when the run could not go on; everything committed stays, and the same
        command goes on from there.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._writing.close)
            stack.push_async_callback(self._counting.close)
            stack.push_async_callback(self._judging.close)
            stack.push_async_callback(self._estimating.close)
            await stack.enter_async_context(self._worker)
            stack.push_async_callback(self._samples.finish)
            with signals(self._interrupt):
                try:
                    await self._flow()
                except BaseExceptionGroup as group:
                    raise first_cause(group) from group
                finally:
                    self.look()
            if self.tally.signal is None:
                self.tally.users_left_failed = await self._claims.count_failed()
                self.tally.users_elsewhere = await self._claims.count_elsewhere()
        self.tally.users_total = max(self.tally.users_total, self.tally.users_claimed)
        if self._stopped_by is not None:
            raise self._stopped_by
        if self.tally.signal is None and self.tally.fetched != self.tally.received:
            raise StoreError(f"{self.tally.fetched} rows were fetched, but {self.tally.received} reached the database.")
        return self.tally

    async def _flow(self) -> None:
        settings = self._settings
        limits = BatchLimits(settings.batch_rows, settings.batch_bytes, settings.batch_seconds)
        self._started = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(write_batches(self._queue, self._store.commit, limits, self._committed)),
                *map(group.create_task, self._worker.duties()),
                group.create_task(self._find_users()),
                group.create_task(self._judge.keep()),
                group.create_task(self.urgency.keep()),
                group.create_task(self._samples.keep()),
            ]
            if self._display is not None:
                background.append(group.create_task(self._display(self.look)))
            self._fetching = group.create_task(self._fetch())
            with self._time_limit():
                await asyncio.wait({self._fetching})
            drain = None if self.tally.signal is None else settings.drain_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(drain):
                    await self._queue.drain()
            if drain is None:  # they were guessed since they were last counted
                self.tally.users_left = await self._claims.count_pending(self._counting)
            self.look()
            for task in background:
                task.cancel()

    async def _fetch(self) -> None:
        """Page users until none is left; an exchange that answers nobody ends it, with the queue still to drain."""
        try:
            while True:
                async with asyncio.TaskGroup() as pagers:
                    for _ in range(self.pagers):
                        pagers.create_task(self._page_users())
                if self._blame.suspects_outage:
                    await self._ask_canary()
                await self._put_all(self._blame.rest())
                await self._queue.drain()
                await self._judge.judge_all()  # which may ask for more of some
                if not await self._claims.look_again():  # and who was set free after an outage is there again
                    break
        except* VigilError as group:
            self._stopped_by = first_cause(group)

    async def _page_users(self) -> None:
        now = asyncio.get_running_loop().time
        while (claim := await self._claims.next()) is not None:
            self.tally.claimed(claim, now())
            try:
                with about(user=claim.user, lane=None):  # the lane is what its last request went by
                    error = await read_user(
                        claim,
                        self._pages[claim.stream],
                        self._put,
                        self._api.faults,
                        fetch_volume=self._fetch_volume,
                        page_rows=self.source.page_rows,
                    )
            except LimitReached:
                return
            if error is not None and self._blame.at_the_brink:
                await self._ask_canary()
            await self._put_all(self._blame.hear(claim.user, error, now()))

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        """At most `max_seconds` for what is begun in the block."""
        if self._max_seconds is None:
            yield
            return
        end = asyncio.get_running_loop().call_later(self._max_seconds, self._allowance.reach, Limit.DURATION)
        try:
            yield
        finally:
            end.cancel()

    def _reached(self) -> None:
        """A limit is reached: whoever waits for a user, or with a request for its turn, need not any more."""
        self.tally.limit = self._allowance.reached
        self._claims.stop()
        self._api.limiter.queue.changed.set()

    async def _ask_canary(self) -> None:
        """Before an outage is believed: does the exchange answer for a user whom it has answered before?"""
        if (canary := await self._claims.canary()) is not None:
            with suppress(ExchangeUnavailable, MalformedReply, ExchangeRefused, LimitReached):
                await self._api.get_user_fills_by_time(*canary)
                await self._put_all(self._blame.vouch())

    async def _put_all(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            await self._put(chunk)

    async def _put(self, chunk: Chunk) -> None:
        if chunk.body_bytes > LARGE_BYTES:
            await beside(chunk.encode)
        await self._queue.put(chunk)
        self.tally.fetched += len(chunk.fills)

    def _committed(self, chunks: Sequence[Chunk], committed: Committed) -> None:
        self.tally.count(chunks, committed)
        for chunk in chunks:
            if chunk.done or chunk.error is not None or chunk.released:
                reading = self.tally.read_user(chunk.user)
                if not chunk.released:
                    self._on_user(Finished(chunk.user, chunk.stream, reading, chunk.error))

    async def _find_users(self) -> None:
        """Count them, and find those not known yet: beside the run, for with millions of users it takes a while."""
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            turns = self.tally.turns
            left = await self._claims.count_pending(self._counting)
            self.tally.users_left = max(0, left - (self.tally.turns - turns))  # some were claimed meanwhile
            self.tally.others_weight = await self._claims.others_weight(self._counting)
            if not await self._claims.discover(self._counting):
                await asyncio.sleep(max(COUNT_SECONDS, 20 * (clock() - started)))

    def _counted(self, fetch_page: FetchPage) -> FetchPage:
        """The same, and the page is in the tally."""

        async def fetch(user: str, start_ms: int, end_ms: int) -> Page:
            page = await fetch_page(user, start_ms, end_ms)
            self.tally.read_page(user, page.rows, self._api.prices.page(page.rows))
            return page

        return fetch

    def look(self) -> Tally:
        """The tally, up to date."""
        tally, api, now = self.tally, self._api, asyncio.get_running_loop().time()
        tally.queued_pages = self._queue.qsize()
        tally.requests, tally.weight, tally.pauses = api.requests, api.weight_spent, api.pauses
        tally.faults = dict(api.faults)
        tally.seconds = now - self._started
        tally.database_silent_seconds = now - max(lane.heard_at for lane in self._worker.lanes)
        reading = sum(not one.again for one in tally.reading.values())  # the others are among those done
        tally.users_total = tally.users_done + tally.users_failed + reading + tally.users_left
        tally.lanes = tuple(
            LaneState(
                lane.name,
                limiter.budget.weight_per_period,
                limiter.budget.used(now),
                limiter.weight_spent,
                limiter.gate.is_open,
            )
            for lane, limiter in zip(api.lanes, api.limiters, strict=True)
        )
        return tally

    def _interrupt(self, signum: int, task: asyncio.Task[Any]) -> None:
        if self.tally.signal is None and self._fetching is not None:
            self.tally.signal = signum
            log.warning("stopping: committing what was fetched; once more stops at once")
            self._fetching.cancel()
        else:
            self.tally.signal = self.tally.signal or signum
            task.cancel()
