"""How a long command talks: the block or lines on stderr, JSON lines on stdout, as loud as asked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer

from vigil.display import Progress, Voice, progress_display
from vigil.errors import EXIT_DONE, VigilError
from vigil.events import Events
from vigil.metrics import metered
from vigil.pipeline import Display
from vigil.settings import Settings
from vigil.tally import Tally
from vigil.views import Look, Show, backfilling

T = TypeVar("T")

ProgressOption = Annotated[
    Progress, typer.Option("--progress", help="A block that is redrawn, lines now and then, or nothing.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="What happens as JSON lines on stdout (docs/json.md); talk stays on stderr.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
MetricsOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", min=0, max=65535, help="Serve /metrics, /healthz and /readyz there (0: a free port)."
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say every retry and pause, too.")]


@dataclass(frozen=True)
class Talk:
    """What the flags above say."""

    progress: Progress
    as_json: bool
    quiet: bool
    verbose: bool

    @contextmanager
    def heard(self) -> Iterator[Events | None]:
        """The JSON lines, if they are wanted; an error that ends the block is the last of them."""
        if not self.as_json:
            yield None
            return
        events = Events(sys.stdout)
        try:
            with events.warnings():
                yield events
        except VigilError as error:
            events.error(error)
            raise
        except (SystemExit, typer.Exit) as stop:  # a signal before the run had begun
            code = stop.exit_code if isinstance(stop, typer.Exit) else stop.code
            if isinstance(code, int) and code != EXIT_DONE:
                events.emit("error", message="interrupted before anything was read", hint=None, exit_code=code)
            raise
        except Exception as bug:
            events.error(VigilError(f"a bug of vigil: {type(bug).__name__}: {bug}"))
            raise

    @contextmanager
    def showing(self, settings: Settings, console: Voice, events: Events | None) -> Iterator[Show]:
        """How a long command shows itself."""
        seconds = settings.progress_seconds
        with progress_display(console, seconds, self.progress, verbose=self.verbose) as show:
            yield show if events is None else events.beside(show, seconds)

    @contextmanager
    def shown(self, settings: Settings, console: Voice, events: Events | None) -> Iterator[Display]:
        """The display of a run."""
        with self.showing(settings, console, events) as show:

            async def display(look: Callable[[], Tally]) -> None:
                await show(backfilling(look))

            yield display if settings.metrics_port is None else metered(display, settings.metrics_port)


@dataclass(frozen=True)
class Scene:
    """Where a long command happens, and who hears of it."""

    settings: Settings
    dsn: str
    console: Voice
    talk: Talk
    events: Events | None


async def watched(work: Coroutine[Any, Any, T], show: Show, look: Look) -> T:
    """What `work` returns, shown while it goes on; it stays in the task that signals cancel."""
    showing = asyncio.create_task(show(look))
    try:
        return await work
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        if not showing.cancelled():
            showing.result()  # what went wrong with it
