"""`doctor`: would a run work here?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated

import typer
from dotenv import dotenv_values
from rich.console import Console

from vigil.cli.common import LaneOption, app, database, print_line, run_async
from vigil.doctor import Finding, Level, examine, settings_told
from vigil.errors import EXIT_DONE, EXIT_FAILURE, VigilError
from vigil.settings import ENV_FILE, Settings, load_settings

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


@app.command()
def doctor(
    lane: LaneOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
    show_settings: Annotated[
        bool, typer.Option("--settings", help="Every setting as well, with its origin; secrets are not shown.")
    ] = False,
) -> None:
    """Look at database, exchange, lanes, clock and limits; say what is wrong and what is to be done. Changes nothing.

    Exit codes: 0 nothing stands in the way of a run, 1 something does. It asks the exchange for 20 weight a lane.

    Examples: `vigil-backfill doctor` · `doctor --lane 192.0.2.1 --lane 192.0.2.2` · `doctor --settings --json`
    """
    settings = load_settings(lane=lane)
    console = Console(highlight=False, soft_wrap=True)
    told = settings_told(settings, _origin(lane)) if show_settings else []
    if not as_json:
        for name, value, origin in told:
            print_line(f"{name}={value}  ({origin})")
    findings = run_async(_examined(settings, console, quiet=as_json))
    if as_json:
        given = [{"name": name, "value": value, "origin": origin} for name, value, origin in told]
        print_line(json.dumps({"findings": [asdict(one) for one in findings], "settings": given}, indent=2))
    raise typer.Exit(EXIT_FAILURE if any(one.level is Level.PROBLEM for one in findings) else EXIT_DONE)


async def _examined(settings: Settings, console: Console, *, quiet: bool) -> list[Finding]:
    findings, dsn, refusal = [], None, None
    with ExitStack() as stack:
        try:
            dsn = stack.enter_context(database(settings))
        except VigilError as error:
            refusal = error
        async for finding in examine(settings, dsn, refusal):
            findings.append(finding)
            if not quiet:
                _show(finding, console)
    return findings


def _show(finding: Finding, console: Console) -> None:
    console.print(f"{finding.level:<8}", style=_STYLES[finding.level], end="")
    console.print(f"{finding.subject}: {finding.found}", markup=False)
    if finding.remedy:
        console.print(f"        -> {finding.remedy}", markup=False)


def _origin(lane: list[str] | None) -> Callable[[str], str]:
    """Where a setting's value comes from, by the name of its field."""
    aliases = {"api_url": ["HL_API_URL"], "requests_per_minute": ["HL_API_REQUESTS_PER_MINUTE"]}
    in_file = {name.upper() for name, value in dotenv_values(ENV_FILE).items() if value}
    in_environment = {name.upper() for name, value in os.environ.items() if value}

    def origin(field: str) -> str:
        names = {f"VIGIL_{field.upper()}", *aliases.get(field, [])}
        if field == "lane" and lane:
            return "flag"
        if names & in_environment:
            return "environment"
        return ENV_FILE if names & in_file else "default"

    return origin
