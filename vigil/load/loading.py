"""One load: jobs that take file after file until all are in; stops in order, sums up."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vigil.archives import EVERYTHING, Batch, BatchSize, Damaged, Place, Scope
from vigil.db import session
from vigil.errors import EXIT_DONE, EXIT_SOME_USERS_FAILED, EXIT_TEMPORARY, ClaimLost, VigilError
from vigil.load.manifest import Known, Manifest
from vigil.load.places import Item
from vigil.load.reader import Reader, ReadingError
from vigil.migrate import pending
from vigil.settings import Settings
from vigil.store import Committed
from vigil.worker import first_cause, signals

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 0.5
"""Between two looks whether the load that is at a file has finished it, or died."""


@dataclass
class LoadTally:
    """What a load has done so far; received = inserted + updated + already_there + rejected."""

    files_total: int = 0
    files_done: int = 0
    files_known: int = 0
    """Files that were in already, this load's or by another's work meanwhile."""
    bytes_total: int = 0
    bytes_done: int = 0
    """Of the files as they lie there."""
    received: int = 0
    inserted: int = 0
    updated: int = 0
    already_there: int = 0
    rejected: int = 0
    passed_over: int = 0
    batches: int = 0
    failed: dict[str, VigilError] = field(default_factory=dict)
    """By file, why it was not read to its end."""
    signal: int | None = None

    def count(self, batch: Batch, committed: Committed) -> None:
        self.batches += 1
        self.received += committed.received
        self.inserted += committed.inserted
        self.updated += committed.updated
        self.already_there += committed.already_there
        self.rejected += committed.refused
        self.passed_over += batch.passed_over

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        if any(error.exit_code == EXIT_TEMPORARY for error in self.failed.values()):
            return EXIT_TEMPORARY
        return EXIT_SOME_USERS_FAILED if self.failed else EXIT_DONE


class Load:
    """Loads `items` with so many `jobs` at a time; `tally` is live, `execute` may be called once."""

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        items: Sequence[Item],
        *,
        jobs: int = 1,
        scope: Scope = EVERYTHING,
        again: bool = False,
        display: Callable[[LoadTally], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.tally = LoadTally(files_total=len(items), bytes_total=sum(item.size_bytes for item in items))
        self._settings, self._dsn, self._scope, self._again, self._display = settings, dsn, scope, again, display
        self._jobs = max(1, min(jobs, len(items)))
        self._waiting = deque(items)
        self._elsewhere: set[Item] = set()  # files that another load was at when last looked at
        self._stopping = asyncio.Event()

    async def execute(self) -> LoadTally:
        """Load until all files are in, or to a signal. Raises: VigilError when it could not go on; resumable."""
        with signals(self._interrupt):
            return await self.run_jobs()

    async def run_jobs(self) -> LoadTally:
        """The same for who minds the signals itself."""
        try:
            async with asyncio.TaskGroup() as group:
                shown = group.create_task(self._display(self.tally)) if self._display is not None else None
                async with asyncio.TaskGroup() as jobs:
                    for _ in range(self._jobs):
                        jobs.create_task(self._work())
                if shown is not None:
                    shown.cancel()
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from errors
        return self.tally

    async def _work(self) -> None:
        """One job: a link and a process of its own."""
        manifest = Manifest(self._dsn, self._settings, secrets.randbits(62), self._scope.name)
        size = BatchSize(self._settings.batch_rows, self._settings.batch_bytes)
        try:
            async with Reader(self._scope, size) as reader:
                while self._waiting and not self._stopping.is_set():
                    item = self._waiting.popleft()
                    if await self._load(item, manifest, reader):
                        self._elsewhere.clear()
                        continue
                    self._waiting.append(item)
                    self._elsewhere.add(item)
                    if self._elsewhere.issuperset(self._waiting):
                        await self._pause()
        finally:
            await manifest.close()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), LOOK_AGAIN_SECONDS)

    async def _load(self, item: Item, manifest: Manifest, reader: Reader) -> bool:
        """False when another load is at the file."""
        if item.is_stdin:
            await reader.start(item, [])
            await self._stream(item, reader, manifest.store)
            return True
        if not self._again and await self._is_known(item, manifest):
            return True
        if not await manifest.lock(item):
            return False
        try:
            # Asked again: it may have been finished just before it was free.
            if self._again or not await self._is_known(item, manifest):
                await self._read(item, manifest, reader)
        except ClaimLost as lost:
            log.info("%s", lost)
            return False
        finally:
            await manifest.unlock()
        return True

    async def _is_known(self, item: Item, manifest: Manifest) -> bool:
        known = (await manifest.known([item])).get(item)
        if known is None or not known.complete:
            return False
        self.tally.files_known += 1
        self.tally.bytes_done += item.size_bytes
        return True

    async def _read(self, item: Item, manifest: Manifest, reader: Reader) -> None:
        taken = await manifest.take(item, again=self._again)
        await reader.start(item, taken.points)
        error = await self._stream(item, reader, partial(manifest.commit, taken), partial(manifest.go_on, taken))
        if error is not None:
            await manifest.fail(taken, str(error))

    async def _stream(
        self,
        item: Item,
        reader: Reader,
        commit: Callable[[Batch], Awaitable[Committed]],
        go_on: Callable[[Place], Awaitable[None]] | None = None,
    ) -> VigilError | None:
        """Commit batch after batch while the next one is made; returns what ended it before the end of the file."""
        raw_bytes = 0
        error: VigilError | None = None
        try:
            first = await self._next(reader)
            if first is not None and go_on is not None:
                await go_on(first.place)
            while not self._stopping.is_set() and (batch := await self._next(reader)) is not None:
                reader.prefetch()
                self.tally.count(batch, await commit(batch))
                self.tally.bytes_done += batch.raw_bytes - raw_bytes
                raw_bytes = batch.raw_bytes
                if batch.error is not None:
                    error = Damaged(batch.error)
                elif batch.last:
                    self.tally.files_done += 1
        except ReadingError as failure:
            error = failure.cause
        finally:
            await reader.stop()
        if error is not None:
            self.tally.failed[item.name] = error
        return error

    async def _next(self, reader: Reader) -> Batch | None:
        """The next batch; None after the last one, and when a signal came first."""
        coming = reader.prefetch()
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            waited: set[asyncio.Future[Any]] = {coming, stopping}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        return await reader.next() if coming.done() else None

    def _interrupt(self, signum: int, task: asyncio.Task[Any]) -> None:
        if self.tally.signal is None:
            self.tally.signal = signum
            log.warning("stopping: committing what was read; once more stops at once")
            self._stopping.set()
        else:
            task.cancel()


async def known_files(dsn: str, settings: Settings, items: Sequence[Item], scope: Scope) -> dict[Item, Known]:
    """What is in already of the files, as they lie there."""
    async with session(dsn) as connection:
        if await pending(connection):
            return {}
    manifest = Manifest(dsn, settings, 0, scope.name)
    try:
        return await manifest.known([item for item in items if not item.is_stdin])
    finally:
        await manifest.close()
