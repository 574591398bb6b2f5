"""The one writer: chunks from the queue to batches, batches to commits.

A batch is closed at `rows`, at `bytes` of JSON, or when its first chunk has waited `seconds`,
whichever comes first; a single chunk may be larger. `task_done` is called only after the commit,
so `queue.drain()` returns when everything queued is durable. Cancelled between commits it loses
nothing that was ever called durable; cancelled in a commit, the transaction is rolled back.
Memory: rows waiting <= (queue + one a pager) pages + one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from vigil.store import Chunk, Committed


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is closed; see the module's docstring."""

    rows: int
    bytes: int
    seconds: float


class ChunkQueue(asyncio.Queue[Chunk]):
    """Chunks on their way to the writer."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._draining = False
        self._waiting: asyncio.Timeout | None = None

    async def drain(self) -> None:
        """Return when all that was queued is committed; no batch waits for more meanwhile."""
        self._draining = True
        try:
            if self._waiting is not None:
                with suppress(RuntimeError):  # it ends in this very moment
                    self._waiting.reschedule(asyncio.get_running_loop().time())
            await self.join()
        finally:
            self._draining = False

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncIterator[None]:
        """So long a batch waits for more in this block, which then ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._draining else seconds) as self._waiting:
                try:
                    yield
                finally:
                    self._waiting = None


async def write_batches(
    queue: ChunkQueue,
    commit: Callable[[Sequence[Chunk]], Awaitable[Committed]],
    limits: BatchLimits,
    on_commit: Callable[[Sequence[Chunk], Committed], None],
) -> None:
    """Commit what comes through `queue` until cancelled. Raises: whatever `commit` raises."""
    while True:
        batch = await next_batch(queue, limits)
        on_commit(batch, await commit(batch))
        for _ in batch:
            queue.task_done()


async def next_batch(queue: ChunkQueue, limits: BatchLimits) -> list[Chunk]:
    """At least one chunk, and what follows it within the limits."""
    batch = [await queue.get()]
    rows, size = len(batch[0].fills), batch[0].body_bytes
    async with queue.patience(limits.seconds):
        while rows < limits.rows and size < limits.bytes:
            chunk = await queue.get()
            batch.append(chunk)
            rows, size = rows + len(chunk.fills), size + chunk.body_bytes
    return batch
