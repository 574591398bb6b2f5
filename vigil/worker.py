"""One worker: its identity, its sessions, the client and its part in the lane, opened and closed in order.

What a backfill and an audit have in common: both ask the exchange within the budget of their
addresses, each shared with every other worker of its lane, and both must be believed alive
while they hold users. A worker that is closed leaves the lane what it did not spend, and its users free.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TextIO

from vigil.api import FetchPage, HyperliquidAPI
from vigil.claims import Claims, Window, hold_worker_lock, new_worker_id, session_name
from vigil.db import Link
from vigil.errors import VigilError
from vigil.fills import Stream
from vigil.lanes import Lane
from vigil.logs import about
from vigil.settings import Settings
from vigil.sources import Source

log = logging.getLogger(__name__)

FAULTS_SECONDS = 5.0
"""Between two times that the exchange's faults are stored: so many a `kill -9` can leave uncounted."""


class Worker:
    """An async context manager; while it is open, somebody must run its `duties`.

    `enroll` makes users of the claims known first, before there is a lease to keep; the rest of them is for
    `claims.discover`, beside the work. `source` is
    the host to ask, None the exchange. `claiming` goes to `Claims`.
    """

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        window: Window,
        *,
        enroll: bool = False,
        source: Source | None = None,
        **claiming: Any,
    ) -> None:
        self.id = new_worker_id()
        self.session = session_name(self.id)
        self.api = HyperliquidAPI(settings, source=source)
        ids = [self.id, *(new_worker_id() for _ in self.api.lanes[1:])]
        lanes = {own: self.api.source.lane(lane.name) for own, lane in zip(ids, self.api.lanes, strict=True)}
        self.control = Link(dsn, settings, prepare=hold_worker_lock(*ids), server_settings=self.session)
        self.claims = Claims(self.control, settings, self.id, window, source=source, lanes=lanes, **claiming)
        self.pages: dict[Stream, FetchPage] = {
            Stream.FILLS: self.api.get_user_fills_by_time,
            Stream.SLICES: self.api.get_user_twap_slice_fills_by_time,
        }
        self.lanes = [
            Lane(self.control, settings, own, limiter, self.api.source)
            for own, limiter in zip(ids, self.api.limiters, strict=True)
        ]
        self._concurrency = settings.concurrency
        self._enroll = enroll
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(about(worker=str(self.id)))
            stack.push_async_callback(self.control.close)
            await stack.enter_async_context(self.api)
            for limiter in self.api.limiters:
                limiter.resize(0)  # until the lane has agreed on a share
            if self._enroll:
                await self.claims.enroll(beside=True)
            await self.claims.register()
            stack.push_async_callback(self._release)
            for lane in self.lanes:
                await lane.agree()
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    @property
    def pagers(self) -> int:
        """Users, or windows, asked for at the same time, by all lanes."""
        return self._concurrency * len(self.lanes)

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """What must go on beside the work, until cancelled: the lease, the share of the lane, the count of faults."""
        return [self.claims.keep_lease(), *(lane.keep() for lane in self.lanes), self._save_faults()]

    async def _save_faults(self) -> None:
        while True:
            await asyncio.sleep(FAULTS_SECONDS)
            await self.claims.save_faults(self.api.faults)

    async def _release(self) -> None:
        async def leave() -> None:
            for lane in self.lanes:
                await lane.leave()
            await self.claims.save_faults(self.api.faults)
            await self.claims.release()

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
def signals(handler: Callable[[int, asyncio.Task[Any]], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `handler(signum, current task)` while the block runs."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    with handling({signum: partial(handler, signum, task) for signum in (signal.SIGINT, signal.SIGTERM)}):
        yield


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """The loop calls these at signals while the block runs; then whoever did before it does again.

    The loop by itself would leave the default behind, which ends a process on the spot.
    """
    loop = asyncio.get_running_loop()
    before = {signum: signal.getsignal(signum) for signum in handlers}
    for signum, handler in handlers.items():
        loop.add_signal_handler(signum, handler)
    try:
        yield
    finally:
        for signum, earlier in before.items():
            loop.remove_signal_handler(signum)
            signal.signal(signum, earlier)


def give_up(stream: TextIO) -> None:
    """What can't be written goes nowhere, or Python would try it once more at its end, and exit with 120."""
    with suppress(OSError, ValueError):  # no file at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def first_cause(group: BaseExceptionGroup[BaseException]) -> VigilError:
    """The error to tell: the first of ours. Raises: the group itself if none is."""
    ours = group.subgroup(VigilError)
    while isinstance(ours, BaseExceptionGroup):
        ours = ours.exceptions[0]  # type: ignore[assignment]
    if ours is None:
        raise group
    assert isinstance(ours, VigilError)  # noqa: S101
    return ours
