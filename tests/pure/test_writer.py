"""Batches and backpressure, with a commit of the test's own: no database, no clock but the loop's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.kit.factories import fill_of, wire_row
from tests.kit.loop import run
from tests.kit.virtual_time import run_virtual
from vigil.claims import Claim
from vigil.errors import StoreError
from vigil.fills import Page
from vigil.pager import read_user
from vigil.store import Chunk, Committed
from vigil.writer import BatchLimits, ChunkQueue, next_batch, write_batches

USER = "0x" + "ab" * 20
FILL = fill_of(wire_row())
UNLIMITED = BatchLimits(rows=10**9, bytes=10**9, seconds=1.0)


def chunk(rows: int = 1, size: int = 100) -> Chunk:
    return Chunk(USER, 1, [FILL] * rows, body_bytes=size)


def filled(*chunks: Chunk) -> ChunkQueue:
    queue = ChunkQueue()
    for one in chunks:
        queue.put_nowait(one)
    return queue


def counted(chunks: Sequence[Chunk]) -> Committed:
    rows = sum(len(one.fills) for one in chunks)
    return Committed(rows, rows, 0, 0, 0, 0)


def ignore(_chunks: Sequence[Chunk], _committed: Committed) -> None:
    pass


def test_a_batch_closes_with_the_chunk_that_reaches_the_rows() -> None:
    async def scenario() -> None:
        queue = filled(*(chunk(rows=4) for _ in range(5)))
        limits = BatchLimits(rows=10, bytes=10**9, seconds=1.0)
        assert [len(await next_batch(queue, limits)) for _ in range(2)] == [3, 2]

    run_virtual(scenario())


def test_a_batch_closes_with_the_chunk_that_reaches_the_bytes() -> None:
    async def scenario() -> None:
        queue = filled(*(chunk(rows=0, size=400) for _ in range(5)))
        limits = BatchLimits(rows=10**9, bytes=1000, seconds=1.0)
        assert [len(await next_batch(queue, limits)) for _ in range(2)] == [3, 2]

    run_virtual(scenario())


def test_a_queue_that_is_drained_lets_no_batch_wait_for_more() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = filled(chunk())
        writer = asyncio.create_task(write_batches(queue, commit, UNLIMITED, ignore))
        await asyncio.sleep(0.25)
        await queue.drain()
        assert (round(loop.time(), 2), sizes) == (0.25, [1])
        for _ in range(2):
            queue.put_nowait(chunk())
        await queue.drain()  # the writer waits for the first of them, not for more
        assert (round(loop.time(), 2), sizes) == (0.25, [1, 2])
        queue.put_nowait(chunk())
        await queue.join()
        assert (round(loop.time(), 2), sizes) == (1.25, [1, 2, 1])
        writer.cancel()

    sizes: list[int] = []

    async def commit(chunks: Sequence[Chunk]) -> Committed:
        sizes.append(len(chunks))
        return counted(chunks)

    run_virtual(scenario())


def test_a_drain_that_begins_as_a_batch_closes_by_itself_is_no_error() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = filled(chunk())

        async def commit(chunks: Sequence[Chunk]) -> Committed:
            return counted(chunks)

        writer = asyncio.create_task(write_batches(queue, commit, BatchLimits(10, 10**9, 0.05), ignore))
        await asyncio.sleep(0.01)
        assert queue._waiting is not None
        closing = loop.create_future()
        loop.call_at(queue._waiting.when() or 0.0, closing.set_result, None)  # in the loop's turn of the deadline
        await closing
        await queue.drain()
        assert not queue._draining
        writer.cancel()

    run_virtual(scenario())


def test_a_chunk_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    async def scenario() -> None:
        queue = filled(chunk(rows=50), chunk(rows=1))
        assert len(await next_batch(queue, BatchLimits(rows=10, bytes=10**9, seconds=1.0))) == 1
        assert queue.qsize() == 1

    run_virtual(scenario())


def test_a_batch_closes_when_its_first_chunk_has_waited_so_long_and_not_later_for_those_that_follow() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = filled(chunk())

        async def trickle() -> None:
            for _ in range(9):
                await asyncio.sleep(0.3)
                await queue.put(chunk())

        trickling = asyncio.create_task(trickle())
        began = loop.time()
        assert len(await next_batch(queue, UNLIMITED)) == 4
        assert loop.time() - began == pytest.approx(1.0, abs=0.01)
        await trickling
        assert queue.qsize() == 6  # the timeout took nothing with it

    run_virtual(scenario())


def test_nothing_is_committed_while_nothing_is_queued() -> None:
    async def scenario() -> None:
        queue = filled()
        batch = asyncio.create_task(next_batch(queue, UNLIMITED))
        await asyncio.sleep(3600)
        assert not batch.done()
        queue.put_nowait(chunk())
        assert len(await batch) == 1

    run_virtual(scenario())


def test_no_waiting_at_all_takes_what_is_queued() -> None:
    async def scenario() -> None:
        queue = filled(chunk(), chunk(), chunk())
        limits = BatchLimits(rows=10**9, bytes=10**9, seconds=0)
        taken = 0
        while not queue.empty():
            taken += len(await next_batch(queue, limits))
        assert taken == 3

    run(scenario())


def test_a_chunk_that_arrives_as_the_batch_closes_is_in_this_one_or_the_next() -> None:
    async def scenario() -> None:
        for delay in (0.9999985, 0.999999, 0.9999995, 1.0, 1.0000005, 1.000001):
            queue = filled(chunk())
            asyncio.get_running_loop().call_later(delay, queue.put_nowait, chunk(rows=7))
            first = await next_batch(queue, UNLIMITED)
            rest = [] if len(first) == 2 else await next_batch(queue, UNLIMITED)
            assert [len(one.fills) for one in [*first, *rest]] == [1, 7]

    run_virtual(scenario())


def test_join_returns_only_when_all_is_committed() -> None:
    async def scenario() -> None:
        queue = filled(*(chunk() for _ in range(7)))
        committed: list[int] = []
        told: list[int] = []
        release = asyncio.Event()

        async def commit(chunks: Sequence[Chunk]) -> Committed:
            await release.wait()
            committed.append(len(chunks))
            return counted(chunks)

        def tell(chunks: Sequence[Chunk], _: Committed) -> None:
            told.append(len(chunks))

        writer = asyncio.create_task(write_batches(queue, commit, BatchLimits(3, 10**9, 0.01), tell))
        joined = asyncio.create_task(queue.join())
        await asyncio.sleep(60)
        assert not joined.done()
        release.set()
        await joined
        assert committed == told == [3, 3, 1]
        writer.cancel()
        await asyncio.wait({writer})
        assert writer.cancelled()

    run_virtual(scenario())


@pytest.mark.parametrize("fails", ["commit", "on_commit"])
def test_an_error_of_the_commit_ends_the_writer_the_pagers_and_the_wait_for_the_queue(fails: str) -> None:
    async def scenario() -> None:
        queue = ChunkQueue(2)

        async def commit(chunks: Sequence[Chunk]) -> Committed:
            if fails == "commit":
                raise StoreError("refused")
            return counted(chunks)

        def tell(_chunks: Sequence[Chunk], _committed: Committed) -> None:
            raise StoreError("does not add up")

        async def pager() -> None:
            while True:
                await queue.put(chunk())

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  the shape of a run
            async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
                group.create_task(write_batches(queue, commit, BatchLimits(10, 10**9, 1.0), tell))
                for _ in range(5):
                    group.create_task(pager())
                await queue.join()
        assert [type(error) for error in caught.value.exceptions] == [StoreError]

    run_virtual(scenario())


def test_a_writer_cancelled_in_a_commit_calls_nothing_done() -> None:
    async def scenario() -> None:
        queue = filled(chunk(), chunk())
        begun = asyncio.Event()

        async def commit(_: Sequence[Chunk]) -> Committed:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        writer = asyncio.create_task(write_batches(queue, commit, BatchLimits(1, 1, 0), ignore))
        await begun.wait()
        writer.cancel()
        await asyncio.wait({writer})
        joined = asyncio.create_task(queue.join())
        await asyncio.sleep(0)
        assert not joined.done()
        joined.cancel()

    run(scenario())


@pytest.mark.parametrize(("pagers", "queue_pages", "batch_pages"), [(1, 1, 1), (8, 16, 10), (30, 2, 3)])
def test_a_commit_that_never_ends_bounds_what_is_fetched(pagers: int, queue_pages: int, batch_pages: int) -> None:
    """Rows in memory <= (pagers + queue + batch) pages, however fast the exchange is."""

    async def scenario() -> None:
        queue = ChunkQueue(queue_pages)
        fetched = 0

        async def fetch_page(_user: str, start: int, _end: int) -> Page:
            nonlocal fetched
            fetched += 1
            await asyncio.sleep(0.001)
            return Page([fill_of(wire_row(time, time)) for time in (start, start + 1)], rows=2000, body_bytes=100)

        async def commit(_: Sequence[Chunk]) -> Committed:
            await asyncio.Event().wait()
            raise AssertionError

        limits = BatchLimits(rows=10**9, bytes=100 * batch_pages, seconds=3600)
        writer = asyncio.create_task(write_batches(queue, commit, limits, ignore))
        claims = [Claim(f"0x{number:040x}", 0, 10**12) for number in range(pagers)]
        reading = [asyncio.create_task(read_user(claim, fetch_page, queue.put, Counter())) for claim in claims]
        await asyncio.sleep(3600)
        assert fetched == pagers + queue_pages + batch_pages
        for task in (writer, *reading):
            assert not task.done()
            task.cancel()
        await asyncio.wait({writer, *reading})

    run_virtual(scenario())
