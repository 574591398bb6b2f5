"""The one writer: chunks from the queue to batches, batches to commits.

A batch is closed at `rows`, at `bytes` of JSON, or when its first chunk has waited `seconds`,
whichever comes first; a single chunk may be larger. `task_done` is called only after the commit,
so `queue.join()` returns when everything queued is durable. Cancelled between commits it loses
nothing that was ever called durable; cancelled in a commit, the transaction is rolled back.
Memory: rows waiting <= (queue + one a pager) pages + one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from vigil.store import Chunk, Committed


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is closed; see the module's docstring."""

    rows: int
    bytes: int
    seconds: float


async def write_batches(
    queue: asyncio.Queue[Chunk],
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


async def next_batch(queue: asyncio.Queue[Chunk], limits: BatchLimits) -> list[Chunk]:
    """At least one chunk, and what follows it within the limits."""
    batch = [await queue.get()]
    rows, size = len(batch[0].fills), batch[0].body_bytes
    deadline = asyncio.get_running_loop().time() + limits.seconds
    try:
        async with asyncio.timeout_at(deadline):
            while rows < limits.rows and size < limits.bytes:
                chunk = await queue.get()
                batch.append(chunk)
                rows, size = rows + len(chunk.fills), size + chunk.body_bytes
    except TimeoutError:
        pass
    return batch
