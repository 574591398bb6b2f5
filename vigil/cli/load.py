"""`load`: archive files into `fills`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vigil.archives import NotFills, Scope
from vigil.cli.common import (
    EndOption,
    StartOption,
    UserOption,
    UsersFileOption,
    app,
    database,
    prepared,
    print_line,
    read_users,
    run_async,
)
from vigil.cli.talk import JsonOption, ProgressOption, QuietOption, Scene, Talk, VerboseOption
from vigil.cli.views import describe_load, load_fields, loading
from vigil.display import Progress, Voice
from vigil.errors import EXIT_DONE, EXIT_SIGINT, EXIT_SIGTERM, UsageError, VigilError
from vigil.load.loading import Load, LoadTally, known_files
from vigil.load.places import STDIN, Item, find
from vigil.pipeline import tend_after
from vigil.settings import DEFAULT_END, Settings, load_settings, parse_instant
from vigil.simulator import DEFAULT_NOW_MS, Population
from vigil.simulator.archives import FORMS, write_archives


@app.command()
def load(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Files, directories, globs, s3://bucket/prefix, or - (stdin).")
    ],
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="Files at a time, each with a process and a connection.  [default: by cores]"
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Read files anew that are in already.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and what of them is in; load nothing.")
    ] = False,
    start: Annotated[str | None, typer.Option(help="Only fills from then on: ISO date (UTC) or ms.")] = None,
    end: Annotated[str | None, typer.Option(help="Only fills before then.")] = None,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Load archive files: node_fills, node_fills_by_block, Parquet (docs/archives.md).

    Their users become known to `run`, which then reads first whose history is being lost. What is in of each file
    is remembered: the same command again reads what is missing or has grown, and several may run at once.

    Examples: `load archive/` · `load 's3://hl-mainnet-node-data/node_fills_by_block/hourly/20250801/*'`
    """
    talk = Talk(progress, as_json, quiet, verbose)
    with talk.heard() as events:
        settings = load_settings()
        if STDIN in paths and users_file == STDIN:
            raise UsageError(
                "Standard input can't be both the fills and the users.", hint="Give one of them as a file."
            )
        if STDIN in paths and sys.stdin is None:
            raise UsageError("Standard input is closed: there is nothing to read on it.")
        if dry_run and as_json:
            raise UsageError("--dry-run lists files for people: there is no --json of it.")
        scope = _scope(start, end, read_users(user, users_file))
        items = find(paths)
        if dry_run:
            with database(settings) as dsn:
                _list_files(settings, dsn, items, scope)
            raise typer.Exit(EXIT_DONE)
        with prepared(settings, quiet=quiet) as (dsn, console):
            scene = Scene(settings, dsn, console, talk, events)
            code = _load(scene, items, jobs=jobs or default_jobs(), scope=scope, again=again)
    raise typer.Exit(code)


def default_jobs() -> int:
    """A file keeps a decoding process busy, and a server's process for twice as long."""
    return max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) // 2)


def _scope(start: str | None, end: str | None, users: list[str] | None) -> Scope:
    default = Scope()
    start_ms = default.start_ms if start is None else parse_instant(start, flag="--start")
    end_ms = default.end_ms if end is None else parse_instant(end, flag="--end")
    if start_ms >= end_ms:
        raise UsageError(f"--start {start} is not before --end {end}.")
    if users is not None and not users:
        raise UsageError("No users given.", hint="Name addresses with --user, or a file with --users-file PATH.")
    return Scope(start_ms, end_ms, None if users is None else frozenset(users))


def _load(scene: Scene, items: Sequence[Item], **how: Any) -> int:
    settings, console, events = scene.settings, scene.console, scene.events
    if any(item.is_stdin for item in items):
        text = "standard input has no name to go on by: interrupted, it is to be sent again from its beginning"
        console.print(text)
    with scene.talk.showing(settings, console, events) as show:
        job = Load(settings, scene.dsn, items, display=lambda tally: show(loading(tally)), **how)
        try:
            tally = run_async(job.execute())
        except asyncio.CancelledError:  # the second signal
            tally = job.tally
        except VigilError:
            _summarize(console, job.tally)
            raise
    if len(items) == 1 and isinstance(error := tally.failed.get(items[0].name), NotFills):
        raise NotFills(f"{items[0].name}: {error}", hint=error.hint)
    _summarize(console, tally)
    run_async(tend_after(tally, settings, scene.dsn, console.print))
    if events is not None:
        events.emit("summary", **load_fields(tally), exit_code=tally.exit_code)
    return tally.exit_code


def _summarize(console: Voice, tally: LoadTally) -> None:
    say = console.print
    known = f", {tally.files_known:,} were in already" if tally.files_known else ""
    say(f"{tally.files_done:,} of {tally.files_total:,} files loaded{known}: {describe_load(tally)}")
    for name, error in tally.failed.items():
        say(f"not read to its end: {name}: {error}")
        if error.hint:
            say(f"  {error.hint}")
    if tally.exit_code in (EXIT_SIGINT, EXIT_SIGTERM):
        say("interrupted: everything committed stays; run the same command to go on")


def _list_files(settings: Settings, dsn: str, items: Sequence[Item], scope: Scope) -> None:
    known = run_async(known_files(dsn, settings, items, scope))
    for item in items:
        found = known.get(item)
        if found is None:
            told = "not in"
        elif found.complete:
            told = f"in: {found.lines_done:,} lines"
        else:
            told = f"in part: up to line {found.lines_done:,}"
        print_line(f"{item.size_bytes:>15,}  {told:32}  {item.name}")
    missing = [item for item in items if not (item in known and known[item].complete)]
    size = sum(item.size_bytes for item in missing)
    print_line(f"{len(items):,} files; {len(missing):,} to load, {size / 1e6:,.1f} MB")


@app.command("simulate-archives")
def simulate_archives(
    directory: Annotated[Path, typer.Argument(help="Where to write node_fills_by_block/hourly/YYYYMMDD/H.lz4.")],
    users: Annotated[int, typer.Option(min=0, help="Size of the made-up population, as of `simulate`.")] = 1000,
    seed: Annotated[int, typer.Option(help="As of `simulate`: the same seed makes the same users and fills.")] = 0,
    scale: Annotated[float, typer.Option(help="As of `simulate`.")] = 1.0,
    start: StartOption = DEFAULT_END,
    end: EndOption = "2025-07-28",
    form: Annotated[str, typer.Option(help="node_fills_by_block or node_fills.")] = FORMS[0],
    plain: Annotated[bool, typer.Option("--plain", help="JSON lines, not packed.")] = False,
) -> None:
    """Write archives of the exchange that `simulate` serves, to rehearse `load` with.

    Examples: `vigil-backfill simulate-archives archive/` · `simulate-archives archive/ --users 50 --seed 7`
    """
    if form not in FORMS:
        raise UsageError(f"--form {form} is none of {', '.join(FORMS)}.")
    population = Population(users, seed=seed, scale=scale)
    first_ms, end_ms = parse_instant(start, flag="--start"), parse_instant(end, flag="--end")
    for path in write_archives(
        population, directory, first_ms, end_ms, now_ms=DEFAULT_NOW_MS, form=form, packed=not plain
    ):
        print_line(str(path))
