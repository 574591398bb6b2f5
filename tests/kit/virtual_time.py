"""Virtual time: an event loop whose clock jumps to the next timer, so an hour of waiting takes no time.

    figures = run_virtual(an_hour_of_requests())

The clock begins at 0 and moves only when every coroutine waits. It also creeps 1 µs a turn:
code that computes its own deadline is woken a float's residue early, asks for a wait too short
to move the clock, and would spin for ever on one that stands still (aiolimiter does).

Only for coroutines that wait for timers and for each other. A reply from outside (socket,
thread, Postgres) would be overtaken by any timeout, so waiting for one is reported as `Stuck`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

CREEP_SECONDS = 1e-6

T = TypeVar("T")


class Stuck(AssertionError):
    """Every coroutine waits, and no timer will ever wake one."""


class _Clock(selectors.SelectSelector):
    """Stands where a loop waits for sockets: the one place that knows how long nothing will happen."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck(f"stuck at {self.now:.6f} s: nothing ready, no timer. {_waiting()}")
        self.now += max(timeout, 0.0) + CREEP_SECONDS
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Clock()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtual(coroutine: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Run `coroutine` in virtual time and answer what it returns.

    `debug` is asyncio's debug mode, several times slower. What is left when an error ends the
    run is cancelled. Raises: Stuck; AssertionError when it returns while its tasks still run.
    """
    with asyncio.Runner(loop_factory=VirtualLoop, debug=debug) as runner:
        return runner.run(_without_leaks(coroutine))


async def _without_leaks(coroutine: Coroutine[Any, Any, T]) -> T:
    result = await coroutine
    await asyncio.sleep(0)  # a task cancelled or released just now needs one turn to end
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    if leaked:
        raise AssertionError(f"tasks left running: {', '.join(sorted(_describe(task) for task in leaked))}")
    return result


def _waiting() -> str:
    loop = asyncio.get_running_loop()
    return "Waiting: " + "; ".join(sorted(_describe(task) for task in asyncio.all_tasks(loop)))


def _describe(task: asyncio.Task[Any]) -> str:
    """Its name, and the lines it waits in, outermost first."""
    waits_in: Any = task.get_coro()
    lines = []
    while frame := getattr(waits_in, "cr_frame", None):
        lines.append(f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})")
        waits_in = waits_in.cr_await
    return f"{task.get_name()} in {' > '.join(lines)}"
