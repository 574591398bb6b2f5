"""`report`: the whole backfill on one page, for people; the same as JSON, for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vigil.cli.common import app, database, print_line, require_schema, run_async
from vigil.db import session
from vigil.display import Voice
from vigil.report import place, words
from vigil.report.data import Report
from vigil.report.questions import read_report
from vigil.settings import load_settings

DEFAULT_NAME = "report.html"


@app.command()
def report(
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PATH|-", help="[default: report.html here; with --json, stdout]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same numbers as one JSON object (docs/report.md).")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Write the state of the whole backfill as one HTML page that needs no network: how complete it is, month by month
    and user by user, what it brought, and how the runs went.

    Examples: `vigil-backfill report` · `report -o /srv/www/backfill.html` · `report --json | jq .caveats`

    Reads one snapshot of the database and changes nothing; runs may go on meanwhile.
    """
    settings = load_settings()
    chosen = output or ("-" if as_json else DEFAULT_NAME)
    path = None if chosen == "-" else Path(chosen).expanduser()
    if path is not None:
        place.check(path)
    console = Voice(quiet=quiet)
    with database(settings) as dsn, _shown(console) as tell:
        found = run_async(_read(dsn, tell))
    text = _as_json(found) if as_json else _as_page(found)
    if path is None:
        print_line(text)
        sys.stdout.flush()
        return
    place.write(path, f"{text}\n")
    console.print(f"{path}: {words.headline(found)}")


async def _read(dsn: str, tell: Callable[[str], None]) -> Report:
    async with session(dsn) as connection:
        await require_schema(connection)
        return await read_report(connection, tell)


def _as_json(found: Report) -> str:
    return json.dumps(found.as_dict(), ensure_ascii=False)


def _as_page(found: Report) -> str:
    from vigil.report.page import render  # here: the template engine would slow down every other command's start

    return render(found)


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[str], None]]:
    """What is being asked for, on a terminal."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("reading") as status:
        yield lambda what: status.update(f"{what} …")
