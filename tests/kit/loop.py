"""One coroutine, run as a test should: in asyncio's debug mode, and failing if it leaves a task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Answer what `coroutine` returns.

    Raises:
        AssertionError: it returned while tasks it started are still running.
    """
    return asyncio.run(_watched(coroutine), debug=True)


async def _watched(coroutine: Coroutine[Any, Any, T]) -> T:
    result = await coroutine
    await asyncio.sleep(0)  # a task that was just cancelled or released needs one turn to end
    leaked = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    if leaked:
        raise AssertionError(f"tasks left running: {', '.join(sorted(leaked))}")
    return result
