"""`maintain`: the upkeep of a hypertable, by hand."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vigil.cli.common import app, prepared, run_async
from vigil.errors import EXIT_DONE, EXIT_FAILURE
from vigil.pipeline import tend
from vigil.settings import load_settings


@app.command()
def maintain(
    now: Annotated[
        bool, typer.Option("--now", help="Even beside running workers, and where users are still to be read.")
    ] = False,
) -> None:
    """Bring `fills_daily` up to date and pack the chunks that the backfill has left; `run` ends with this.

    Month by month and chunk by chunk: stop it at any time, the next one goes on. On plain Postgres there is nothing
    to tend. Exit code 1: the database would not pack some chunks.
    """
    settings = load_settings()
    with prepared(settings) as (dsn, _):
        done, signum = run_async(tend(dsn, _print, now=now))
    if signum is not None:
        raise typer.Exit(128 + signum)
    raise typer.Exit(EXIT_FAILURE if done is not None and done.refused else EXIT_DONE)


def _print(text: str) -> None:
    print(text)
    sys.stdout.flush()  # as it is done, to a pipe as well
