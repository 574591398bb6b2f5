"""`maintain`: the upkeep of a hypertable, by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated

import typer

from vigil.cli.common import app, prepared, run_async
from vigil.cli.talk import JsonOption, ProgressOption, QuietOption, Talk, VerboseOption, watched
from vigil.cli.views import tending
from vigil.display import Progress, Voice
from vigil.errors import EXIT_DONE, EXIT_FAILURE
from vigil.events import Events
from vigil.pipeline import tend
from vigil.settings import load_settings
from vigil.upkeep import Upkept


@app.command()
def maintain(
    now: Annotated[
        bool, typer.Option("--now", help="Even beside running workers, and where users are still to be read.")
    ] = False,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Bring `fills_daily` up to date and pack the chunks that the backfill has left; `run` ends with this.

    Month by month and chunk by chunk: stop it at any time, the next one goes on. On plain Postgres there is nothing
    to tend. Exit code 1: the database would not pack some chunks.

    Examples: `vigil-backfill maintain` · `maintain --now`
    """
    talk = Talk(progress, as_json, quiet, verbose)
    with talk.heard() as events:
        settings = load_settings()
        with prepared(settings, quiet=quiet) as (dsn, console), talk.showing(settings, console, events) as show:
            done = Upkept()
            work = tend(dsn, _teller(events, quiet), now=now, done=done)
            _, signum = run_async(watched(work, show, tending(done)))
        if quiet and done.refused:
            refused = f"{done.refused:,} chunks would not be packed; without --quiet it is told why"
            Voice(settings.log_format).print(refused)
        code = 128 + signum if signum is not None else EXIT_FAILURE if done.refused else EXIT_DONE
        if events is not None:
            events.emit("summary", **asdict(replace(done, step="")), exit_code=code)
    raise typer.Exit(code)


def _teller(events: Events | None, quiet: bool) -> Callable[[str], None]:
    """Each step is told as it is done, to a pipe as well."""

    def tell(text: str) -> None:
        if events is not None:
            events.emit("step", message=text)
        elif not quiet:
            print(text)
            sys.stdout.flush()

    return tell
