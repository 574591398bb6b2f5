"""What people see of a long command: a calm block on a terminal, a plain line now and then elsewhere, or nothing.

All of it goes to stderr; log lines scroll above the block. SIGUSR1 prints the state at once. Where logs are to be
JSON throughout (VIGIL_LOG_FORMAT=json), so is everything that is said here.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Any, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vigil.logs import LogFormat, json_line, logged_to
from vigil.tally import Tally
from vigil.views import PACE_SECONDS, Look, Show
from vigil.worker import give_up, handling

REFRESH_SECONDS = 0.25

BAR_COLUMNS = 40


class Progress(StrEnum):
    """How a long command shows itself."""

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


class Voice(Console):
    """Where all talk of a long command goes, stderr; if everything is to be JSON, each thing said is a line of it."""

    def __init__(self, log_format: LogFormat = LogFormat.AUTO, *, quiet: bool = False) -> None:
        stream = None if sys.stderr is None else cast("TextIO", _Forgiving(sys.stderr))
        self.log_format = log_format
        terminal = False if self.all_json else None
        super().__init__(
            file=stream, stderr=True, quiet=quiet, markup=False, highlight=False, emoji=False, force_terminal=terminal
        )

    @property
    def all_json(self) -> bool:
        return self.log_format is LogFormat.JSON

    @property
    def logs_json(self) -> bool:
        return self.all_json or (self.log_format is LogFormat.AUTO and not self.is_terminal)

    def print(self, *objects: Any, **how: Any) -> None:
        if self.all_json:
            self.say_line(json_line(" ".join(map(str, objects))))
        else:
            super().print(*objects, **how | {"soft_wrap": not self.is_terminal})  # a terminal breaks words

    def say_line(self, text: str) -> None:
        """A sentence, or a line that is made already."""
        super().print(text, soft_wrap=not self.is_terminal)

    def state(self, look: Look) -> None:
        """How things stand, in one line."""
        view = look()
        self.say_line(json_line("progress", **view.fields) if self.all_json else view.sentence)


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
def progress_display(
    console: Voice,
    plain_seconds: float,
    progress: Progress = Progress.AUTO,
    *,
    verbose: bool = False,
) -> Iterator[Show]:
    """Shows on `console`, and what is logged meanwhile; where that is quiet, warnings only."""
    if console.quiet:
        progress, console = Progress.NONE, Voice(console.log_format)
    if progress is Progress.AUTO:
        progress = Progress.RICH if console.is_terminal else Progress.PLAIN
    if progress is Progress.RICH and console.all_json:
        progress = Progress.PLAIN  # a block is no line

    async def show(look: Look) -> None:
        with handling({signal.SIGUSR1: lambda: console.state(look)}):
            await _MODES[progress](console, look, plain_seconds)

    with log_to(console, logging.DEBUG if verbose else logging.WARNING):
        yield show


async def _block(console: Voice, look: Look, _: float) -> None:
    # Data on stdout scrolls above the block where both are seen; into a file or a pipe it goes as ever.
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=_is_terminal(sys.stdout)) as live:
        while True:
            # The empty line is for the ^C that a terminal echoes: at the end of a full one it would begin another.
            live.update(Group(_table(look, console.width), Text("")), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _table(look: Look, columns: int) -> Table:
    """Long lines go on below: in a narrow terminal nothing may be missing."""
    view = look()
    names = max((len(name) for name in view.lines), default=0)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if view.total:
        bar = min(BAR_COLUMNS, max(columns - names - 2, 1))
        table.add_row("", ProgressBar(total=view.total, completed=view.done, width=bar))
    for name, text in view.lines.items():
        table.add_row(name, Text(text))
    return table


async def _plain(console: Voice, look: Look, seconds: float) -> None:
    look()
    while True:
        await asyncio.sleep(seconds)
        console.state(look)


async def _nothing(_: Voice, look: Look, __: float) -> None:
    while True:
        look()  # for who asks by a signal
        await asyncio.sleep(PACE_SECONDS / 6)


_MODES = {Progress.RICH: _block, Progress.PLAIN: _plain, Progress.NONE: _nothing}


def log_to(console: Voice, level: int = logging.WARNING) -> AbstractContextManager[None]:
    """Log lines go to the console while the block runs, above what is drawn there instead of tearing it."""
    return logged_to(console.say_line, level, as_json=console.logs_json, timed=not console.is_terminal)
