"""Cancelling a coroutine at its n-th await, whichever of the tasks it started does the awaiting.

    steps = Steps(7)
    await steps.run(something())  # cancelled when it and its tasks have come to rest for the 7th time

An await that does not come to rest is none here: nothing can be cancelled at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

import asyncpg

T = TypeVar("T")

_CURRENT: ContextVar[Steps | None] = ContextVar("steps", default=None)


class Steps:
    """Counts how often a coroutine and the tasks that it starts come to rest; cancels it at `cancel_at`.

    With `late` the cancellation comes one turn of the loop later: what is awaited may be there by then.
    """

    def __init__(self, cancel_at: int | None = None, *, late: bool = False) -> None:
        self.count = 0
        self.complaints: list[str] = []
        """What the event loop had to say: exceptions that nobody looked at, callbacks that failed."""
        self._cancel_at = cancel_at
        self._late = late
        self._main: asyncio.Task[Any] | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """The coroutine's result, or None when it was cancelled. One at a time in an event loop."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_start)
        loop.set_exception_handler(self._complain)
        token = _CURRENT.set(self)
        try:
            self._main = loop.create_task(coroutine)
        finally:
            _CURRENT.reset(token)
        try:
            await asyncio.wait({self._main})
            await asyncio.sleep(0)  # a task that was just cancelled or released needs one turn to end
            return None if self._main.cancelled() else self._main.result()
        finally:
            loop.set_task_factory(None)
            loop.set_exception_handler(None)

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The driver itself forgets to look at what became of a connection that was given up.
        if not isinstance(context.get("exception"), (asyncpg.ConnectionDoesNotExistError, ConnectionError)):
            self.complaints.append(str(context))

    @property
    def left_running(self) -> list[str]:
        """The tasks that outlived the coroutine."""
        return [repr(task) for task in self._tasks if not task.done()]

    def started(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)

    def rests(self) -> None:
        self.count += 1
        if self.count == self._cancel_at:
            assert self._main is not None
            if self._late:
                asyncio.get_running_loop().call_soon(self._main.cancel)
            else:
                self._main.cancel()


def _start(loop: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> asyncio.Task[Any]:
    steps = _CURRENT.get()
    if steps is None:  # the test's own, or the simulator's
        return asyncio.Task(coroutine, loop=loop, **given)
    task: asyncio.Task[Any] = asyncio.Task(_Watched(coroutine, steps.rests), loop=loop, **given)
    steps.started(task)
    return task


class _Watched(Coroutine[Any, Any, T]):
    """A coroutine that tells `rests` each time it comes to rest."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], rests: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._rests = rests

    def send(self, value: Any) -> Any:
        awaited = self._coroutine.send(value)
        self._rests()
        return awaited

    def throw(self, *error: Any) -> Any:
        awaited = self._coroutine.throw(*error)
        self._rests()
        return awaited

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()
