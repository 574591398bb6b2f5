"""Work on large pages beside the event loop: decoding one, or encoding its rows, takes some 10 ms each.

In a thread, because the loop has the server's COPY to feed meanwhile, and leases to keep; in one, because
threads of one interpreter do not run at the same time, they only take turns.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 64 * 1024
"""Some 200 rows: below that, handing the work over takes longer than it."""

TURN_SECONDS = 0.0005
"""The loop waits so long for its turn, not Python's 5 ms, in which the server would be without rows."""

_thread = ThreadPoolExecutor(1, "pages", initializer=sys.setswitchinterval, initargs=(TURN_SECONDS,))


async def beside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `function`, which must not touch the loop. Cancelled, it is computed in vain."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: function(*args, **kwargs))
