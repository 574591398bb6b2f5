"""What people see of a run: a progress block on a terminal, a plain line now and then elsewhere.

All of it goes to stderr. Reads the `Tally`, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vigil.pipeline import Tally

REFRESH_SECONDS = 0.25


def describe(tally: Tally) -> str:
    """The counters in one line."""
    parts = [f"{tally.inserted:,} fills", f"{tally.requests:,} requests", f"{tally.weight:,} weight"]
    if tally.updated:
        parts.append(f"{tally.updated:,} updated")
    if tally.users_failed:
        parts.append(f"{tally.users_failed:,} users failed")
    if tally.rejected:
        parts.append(f"{tally.rejected:,} rows rejected")
    if tally.gaps:
        parts.append(f"{tally.gaps:,} gaps")
    if tally.pauses:
        parts.append(f"{tally.pauses:,} pauses")
    return ", ".join(parts)


@contextmanager
def progress_display(console: Console, plain_seconds: float) -> Iterator[Callable[[Tally], Coroutine[Any, Any, None]]]:
    """A coroutine function for `Run(display=...)`, fit for where `console` goes."""
    if not console.is_terminal:
        with log_to(console):
            yield lambda tally: _plain(console, tally, plain_seconds)
        return
    columns = (
        TextColumn("[bold]users"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),  # last: on a narrow terminal it is what may be cut
    )
    with Progress(*columns, console=console, transient=True) as progress, log_to(console):
        yield lambda tally: _block(progress, tally)


async def _block(progress: Progress, tally: Tally) -> None:
    task = progress.add_task("users", total=tally.users_total, detail="")
    while True:
        done = tally.users_done + tally.users_failed
        progress.update(task, completed=done, total=max(tally.users_total, done), detail=describe(tally))
        await asyncio.sleep(REFRESH_SECONDS)


async def _plain(console: Console, tally: Tally, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        done = tally.users_done + tally.users_failed
        console.print(f"{done:,} of {tally.users_total:,} users, {describe(tally)}", highlight=False, soft_wrap=True)


class _ConsoleHandler(logging.Handler):
    """Log lines scroll above the progress block instead of tearing it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def log_to(console: Console) -> Iterator[None]:
    """Log lines go to the console while the block runs."""
    handler = _ConsoleHandler(console)
    logger = logging.getLogger("vigil")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
