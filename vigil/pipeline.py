"""One run: opens everything, lets it flow, stops it in order, sums it up.

    claims -> pagers (many) -> queue -> writer (one) -> commit

Theory of operation. The writer, the lease and the display are tasks of one group; the pagers
are a group of their own inside it. When the pagers end, of themselves, by the first signal, or
because the exchange answers nobody any more, the queue is joined (the writer calls `task_done`
only after a commit), and then the writer is cancelled. There is no sentinel to lose: if the
writer dies, the outer group takes everything down with it, and whatever was not committed is
read again by the next claim. The first SIGINT or SIGTERM drops what is in flight and commits
what is queued; the second stops at once. Neither can lose or repeat a row.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from vigil.api import HyperliquidAPI
from vigil.blame import SILENT_USERS, Blame
from vigil.claims import EVERYBODY, Claims, Shard, Window, hold_worker_lock, new_worker_id, session_name
from vigil.cursor import PAGE_ROWS
from vigil.db import Link, session
from vigil.errors import (
    EXIT_DONE,
    EXIT_SOME_USERS_FAILED,
    ExchangeRefused,
    ExchangeUnavailable,
    MalformedReply,
    StoreError,
    VigilError,
)
from vigil.lanes import Lane
from vigil.migrate import Migration, migrate
from vigil.pager import read_user
from vigil.settings import Settings
from vigil.store import WRITER_SESSION, Chunk, Committed, Store, check_fills_table, prepare_staging
from vigil.writer import BatchLimits, write_batches

log = logging.getLogger(__name__)

FAULTS_SECONDS = 5.0
"""Between two times that the exchange's faults are stored: so many a `kill -9` can leave uncounted."""


@dataclass
class Tally:
    """What a run has done so far; the display reads it while it goes on. Rows, users, weight, seconds."""

    users_total: int = 0
    users_claimed: int = 0
    users_done: int = 0
    users_failed: int = 0
    users_left_failed: int = 0
    """Failed users there are at the end, those included that earlier runs have parked."""
    fetched: int = 0
    received: int = 0
    inserted: int = 0
    updated: int = 0
    already_there: int = 0
    refused: int = 0
    rejected: int = 0
    gaps: int = 0
    batches: int = 0
    queued_pages: int = 0
    requests: int = 0
    weight: int = 0
    pauses: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    signal: int | None = None

    def count(self, chunks: Sequence[Chunk], committed: Committed) -> None:
        """Add a committed batch."""
        self.batches += 1
        self.users_done += sum(chunk.done for chunk in chunks)
        self.users_failed += sum(chunk.error is not None for chunk in chunks)
        self.gaps += sum(len(chunk.gaps) for chunk in chunks)
        for name in ("received", "inserted", "updated", "already_there", "refused", "rejected"):
            setattr(self, name, getattr(self, name) + getattr(committed, name))

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        return EXIT_SOME_USERS_FAILED if self.users_failed or self.users_left_failed else EXIT_DONE


async def prepare_database(dsn: str, notice: Callable[[str], None] = log.info) -> list[Migration]:
    """Bring the schema up to date, after a look at a `fills` table that may be there; returns what was applied.

    `notice` is told what people should know, such as that there is no TimescaleDB.
    Raises: UsageError, SchemaMismatch, StoreUnavailable.
    """
    async with session(dsn) as connection:
        await check_fills_table(connection)
        return await migrate(connection, notice=notice)


class Run:
    """One worker's run over a window; `tally` is live, `execute` may be called once.

    `display` is a coroutine function that shows the tally until it is cancelled.
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
        display: Callable[[Tally], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.tally = Tally()
        self._settings = settings
        self._display = display
        self._queue: asyncio.Queue[Chunk] = asyncio.Queue(settings.queue_pages)
        worker_id = new_worker_id()
        name = session_name(worker_id)
        self._control = Link(dsn, settings, prepare=hold_worker_lock(worker_id), server_settings=name)
        writing = {**name, **WRITER_SESSION}
        self._writing = Link(dsn, settings, prepare=prepare_staging, server_settings=writing)
        self._store = Store(self._writing, worker_id, lease_seconds=settings.lease_seconds)
        self._counting = Link(dsn, settings)
        self._claims = Claims(
            self._control, settings, worker_id, window, shard=shard, users=users, limit=limit, retry=retry
        )
        self._api = HyperliquidAPI(settings)
        self._lane = Lane(self._control, settings, worker_id, self._api.limiter)
        self._blame = Blame(max(SILENT_USERS, 2 * settings.concurrency), settings.outage_patience_seconds)
        self._fetching: asyncio.Task[None] | None = None
        self._stopped_by: VigilError | None = None

    @property
    def rows_in_memory(self) -> int:
        """The most rows that may wait for the database at once."""
        settings = self._settings
        return (settings.queue_pages + settings.concurrency + 1) * PAGE_ROWS + settings.batch_rows

    async def execute(self) -> Tally:
        """Run to the end, or to a signal, and return the tally.

        Raises: VigilError when the run could not go on; everything committed stays, and the same
        command goes on from there.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._writing.close)
            stack.push_async_callback(self._control.close)
            stack.push_async_callback(self._counting.close)
            await stack.enter_async_context(self._api)
            self._api.limiter.resize(0)  # until the lane has agreed on a share
            await self._claims.enroll()
            await self._claims.register()
            stack.push_async_callback(self._release)
            await self._lane.agree()
            with _signals(self._interrupt):
                try:
                    await self._flow()
                except BaseExceptionGroup as group:
                    raise _first_cause(group) from group
            if self.tally.signal is None:
                self.tally.users_left_failed = await self._claims.count_failed()
        self.tally.users_total = max(self.tally.users_total, self.tally.users_claimed)
        if self._stopped_by is not None:
            raise self._stopped_by
        if self.tally.signal is None and self.tally.fetched != self.tally.received:
            raise StoreError(f"{self.tally.fetched} rows were fetched, but {self.tally.received} reached the database.")
        return self.tally

    async def _flow(self) -> None:
        settings = self._settings
        limits = BatchLimits(settings.batch_rows, settings.batch_bytes, settings.batch_seconds)
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(write_batches(self._queue, self._store.commit, limits, self._committed)),
                group.create_task(self._claims.keep_lease()),
                group.create_task(self._lane.keep()),
                group.create_task(self._count_users()),
                group.create_task(self._save_faults()),
            ]
            if self._display is not None:
                background.append(group.create_task(self._display(self.tally)))
            self._fetching = group.create_task(self._fetch())
            await asyncio.wait({self._fetching})
            drain = None if self.tally.signal is None else settings.drain_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(drain):
                    await self._queue.join()
            self._refresh()
            for task in background:
                task.cancel()

    async def _fetch(self) -> None:
        """Page users until none is left; an exchange that answers nobody ends it, with the queue still to drain."""
        try:
            while True:
                async with asyncio.TaskGroup() as pagers:
                    for _ in range(self._settings.concurrency):
                        pagers.create_task(self._page_users())
                if self._blame.suspects_outage:
                    await self._ask_canary()
                await self._put_all(self._blame.rest())
                await self._queue.join()
                if not await self._claims.look_again():  # who was set free after an outage is there again
                    break
        except* VigilError as group:
            self._stopped_by = _first_cause(group)

    async def _page_users(self) -> None:
        now = asyncio.get_running_loop().time
        while (claim := await self._claims.next()) is not None:
            self.tally.users_claimed += 1
            error = await read_user(claim, self._api.get_user_fills_by_time, self._put, self._api.faults)
            if error is not None and self._blame.at_the_brink:
                await self._ask_canary()
            await self._put_all(self._blame.hear(claim.user, error, now()))

    async def _ask_canary(self) -> None:
        """Before an outage is believed: does the exchange answer for a user whom it has answered before?"""
        if (canary := await self._claims.canary()) is not None:
            with suppress(ExchangeUnavailable, MalformedReply, ExchangeRefused):
                await self._api.get_user_fills_by_time(*canary)
                await self._put_all(self._blame.vouch())

    async def _put_all(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            await self._put(chunk)

    async def _put(self, chunk: Chunk) -> None:
        await self._queue.put(chunk)
        self.tally.fetched += len(chunk.fills)
        self._refresh()

    def _committed(self, chunks: Sequence[Chunk], committed: Committed) -> None:
        self.tally.count(chunks, committed)
        self._refresh()

    async def _count_users(self) -> None:
        """Beside the run, which need not wait for it: with millions of users it takes seconds."""
        self.tally.users_total = await self._claims.count_pending(self._counting)
        await self._counting.close()

    async def _save_faults(self) -> None:
        while True:
            await asyncio.sleep(FAULTS_SECONDS)
            await self._claims.save_faults(self._api.faults)

    def _refresh(self) -> None:
        tally, limiter = self.tally, self._api.limiter
        tally.queued_pages = self._queue.qsize()
        tally.requests, tally.weight, tally.pauses = self._api.requests, limiter.weight_spent, limiter.gate.pauses
        tally.faults = dict(self._api.faults)

    def _interrupt(self, signum: int, task: asyncio.Task[Any]) -> None:
        if self.tally.signal is None and self._fetching is not None:
            self.tally.signal = signum
            log.warning("stopping: committing what was fetched; once more stops at once")
            self._fetching.cancel()
        else:
            self.tally.signal = self.tally.signal or signum
            task.cancel()

    async def _release(self) -> None:
        async def leave() -> None:
            await self._lane.leave()
            await self._claims.save_faults(self._api.faults)
            await self._claims.release()

        leaving = asyncio.ensure_future(leave())
        try:
            await asyncio.shield(leaving)
        except VigilError as error:
            log.debug("the claims were not released, others take them over: %s", error)
        except asyncio.CancelledError:
            leaving.cancel()
            await asyncio.wait({leaving})
            raise


@contextmanager
def _signals(handler: Callable[[int, asyncio.Task[Any]], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `handler(signum, current task)` while the block runs."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, handler, signum, task)
    try:
        yield
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> VigilError:
    """The error to tell: the first of ours. Raises: the group itself if none is."""
    ours = group.subgroup(VigilError)
    while isinstance(ours, BaseExceptionGroup):
        ours = ours.exceptions[0]  # type: ignore[assignment]
    if ours is None:
        raise group
    assert isinstance(ours, VigilError)  # noqa: S101
    return ours
