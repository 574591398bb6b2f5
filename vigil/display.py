"""What people see of a run: a calm block on a terminal, a plain line now and then elsewhere, or nothing.

All of it goes to stderr; log lines scroll above the block. SIGUSR1 prints the state at once. Reads the
`Tally`, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vigil.forecast import Forecast, duration
from vigil.pipeline import Display
from vigil.tally import LaneState, Tally
from vigil.worker import give_up, handling

REFRESH_SECONDS = 0.25

PACE_SECONDS = 30.0
"""Fills a second are those of so long, or since the last line."""

LANES_SHOWN = 6
"""A line has no room for more; `status` lists them all."""


class Progress(StrEnum):
    """How a run shows itself."""

    AUTO = "auto"  # rich on a terminal, plain elsewhere
    RICH = "rich"
    PLAIN = "plain"
    NONE = "none"


class _Forgiving:
    """A stream that talk goes to: when it can't be written to any more, the talk is over, not the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._forgiven():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._forgiven():
            self._stream.flush()

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            give_up(self._stream)


def talk_to_people(*, quiet: bool = False) -> Console:
    """The console that all talk of a long command goes to: stderr."""
    stream = None if sys.stderr is None else cast("TextIO", _Forgiving(sys.stderr))
    return Console(file=stream, stderr=True, quiet=quiet, markup=False, highlight=False)


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


class Pace:
    """Rows a second that reached the database lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, tally: Tally) -> float:
        self._seen.append((tally.seconds, tally.received))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[1][0] >= PACE_SECONDS:
            self._seen.popleft()  # the first that stays is at least so old: two lines may be farther apart
        seconds = self._seen[-1][0] - self._seen[0][0]
        return (self._seen[-1][1] - self._seen[0][1]) / seconds if seconds else 0.0


def lines(tally: Tally, rows_per_second: float) -> dict[str, str]:
    """The block, a line for each name."""
    used, share = (sum(getattr(lane, name) for lane in tally.lanes) for name in ("used_weight", "share_weight"))
    minute = "minute" if tally.period_seconds == 60 else f"{tally.period_seconds:g} s"
    found = {
        "users": _users(tally),
        "fills": f"{_fills(tally)}, {rows_per_second:,.0f} rows/s",
        "weight": f"{used:,} of {share:,} in the last {minute}, {tally.weight:,} in all by {tally.requests:,} requests",
        "faults": _faults(tally),
        "lanes": _lanes(tally.lanes),
        "queue": f"{tally.queued_pages:,} pages wait for the database{_slowest(tally)}",
        "left": _left(tally),
    }
    return {name: text for name, text in found.items() if text}


def _users(tally: Tally) -> str:
    parts = [f"{tally.users_done:,} of {tally.users_total:,}", f"{len(tally.reading):,} being read"]
    if tally.users_failed:
        parts.append(f"{tally.users_failed:,} failed")
    return ", ".join(parts)


def _fills(tally: Tally) -> str:
    counted = {"new": tally.inserted, "updated": tally.updated, "already there": tally.already_there}
    parts = [f"{count:,} {name}" for name, count in counted.items() if count or name == "new"]
    parts += [f"{count:,} {name}" for name, count in (("rejected", tally.rejected), ("gaps", tally.gaps)) if count]
    return ", ".join(parts)


def _faults(tally: Tally) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(tally.faults.items()) if count)


def _lanes(lanes: tuple[LaneState, ...]) -> str:
    if len(lanes) == 1 and lanes[0].open:
        return ""
    shown = [f"{lane.name} {f'{lane.used_weight:,}' if lane.open else 'paused'}" for lane in lanes[:LANES_SHOWN]]
    return ", ".join(shown) + (f" and {len(lanes) - LANES_SHOWN} more" if len(lanes) > LANES_SHOWN else "")


def _slowest(tally: Tally) -> str:
    slowest = tally.slowest()
    if slowest is None:
        return ""
    user, reading = slowest
    return f"; slowest user {user[:8]}…{user[-4:]}: {reading.pages:,} pages, {reading.rows:,} rows"


def _left(tally: Tally) -> str:
    left: Forecast | None = tally.eta()
    if left is None:
        return "not known yet"
    return f"{duration(left.expected)} ({duration(left.low)} to {duration(left.high)})"


def state(tally: Tally, rows_per_second: float) -> str:
    """All of it in one line."""
    return "; ".join(f"{name}: {text}" for name, text in lines(tally, rows_per_second).items())


@contextmanager
def progress_display(
    console: Console,
    plain_seconds: float,
    progress: Progress = Progress.AUTO,
    *,
    verbose: bool = False,
) -> Iterator[Display]:
    """For `Run(display=...)`: shows on `console`, and what is logged; where that is quiet, warnings only."""
    if progress is Progress.AUTO:
        progress = Progress.RICH if console.is_terminal else Progress.PLAIN
    if console.quiet:
        progress, console = Progress.NONE, talk_to_people()

    async def show(look: Callable[[], Tally]) -> None:
        pace = Pace()

        def on_request() -> None:
            console.print(state(look(), pace(look())), highlight=False, markup=False, soft_wrap=True)

        with handling({signal.SIGUSR1: on_request}):
            await _MODES[progress](console, look, pace, plain_seconds)

    with log_to(console, logging.DEBUG if verbose else logging.WARNING):
        yield show


async def _block(console: Console, look: Callable[[], Tally], pace: Pace, _: float) -> None:
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            tally = look()
            live.update(_table(tally, pace(tally)), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


def _table(tally: Tally, rows_per_second: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    done = tally.users_done + tally.users_failed
    table.add_row("", ProgressBar(total=max(tally.users_total, 1), completed=done, width=40))
    for name, text in lines(tally, rows_per_second).items():
        table.add_row(name, Text(text))
    return table


async def _plain(console: Console, look: Callable[[], Tally], pace: Pace, seconds: float) -> None:
    pace(look())
    while True:
        await asyncio.sleep(seconds)
        tally = look()
        console.print(state(tally, pace(tally)), highlight=False, markup=False, soft_wrap=True)


async def _nothing(console: Console, look: Callable[[], Tally], pace: Pace, seconds: float) -> None:
    while True:
        pace(look())  # for who asks by a signal
        await asyncio.sleep(PACE_SECONDS / 6)


_MODES = {Progress.RICH: _block, Progress.PLAIN: _plain, Progress.NONE: _nothing}


class _ConsoleHandler(logging.Handler):
    """Log lines scroll above the progress block instead of tearing it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def log_to(console: Console, level: int = logging.WARNING) -> Iterator[None]:
    """Log lines of that level and above go to the console while the block runs."""
    handler = _ConsoleHandler(console)
    logger = logging.getLogger("vigil")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
