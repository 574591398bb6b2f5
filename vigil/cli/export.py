"""`export`: rows out of the database, as Parquet or CSV."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vigil.cli.common import UserOption, UsersFileOption, app, database, read_users, require_schema, run_async
from vigil.cli.talk import JsonOption, ProgressOption, QuietOption, Scene, Talk, VerboseOption, watched
from vigil.cli.views import exporting
from vigil.db import session
from vigil.display import Progress, Voice
from vigil.errors import EXIT_DONE, UsageError
from vigil.export import Export, Exported, Format, Numbers, Partition, Wanted
from vigil.export.output import ReaderGone
from vigil.export.place import Directory, Place, SingleFile, Stdout
from vigil.settings import load_settings, parse_instant
from vigil.worker import signals

SUFFIXES = {".parquet": (Format.PARQUET, False), ".csv": (Format.CSV, False), ".csv.gz": (Format.CSV, True)}

FormatOption = Annotated[
    Format | None, typer.Option("--format", help="[default: by OUT's ending, else parquet; csv for -]")
]
PartitionOption = Annotated[
    Partition | None, typer.Option("--partition", help="[default: none for a file, month for a directory]")
]


@app.command()
def export(
    out: Annotated[
        str, typer.Argument(help="A directory, or a file ending in .parquet, .csv or .csv.gz, or - (stdout).")
    ],
    form: FormatOption = None,
    partition: PartitionOption = None,
    start: Annotated[str | None, typer.Option(help="First instant, as of `run`.  [default: the first row]")] = None,
    end: Annotated[str | None, typer.Option(help="End, exclusive, as of `run`.  [default: the last row]")] = None,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    numbers: Annotated[
        Numbers, typer.Option(help="Amounts in Parquet: decimal128(38, 18), or text as the table has it.")
    ] = Numbers.DECIMAL,
    gzip: Annotated[bool, typer.Option("--gzip", help="Pack CSV, as for a file that ends in .gz.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export at OUT.")] = False,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write fills to Parquet or CSV: one snapshot, exact, ordered by user and time; whole, or not there.

    A directory gets `month=2024-03/fills.parquet` or `user_address=0x…/fills.parquet`, and last of all `_export.json`:
    what is in it, and how many of its users are proven to be complete.

    Examples: `vigil-backfill export fills/` · `export btc.csv.gz --user 0x… --start 2024-01-01` · `export - | head`
    """
    talk = Talk(progress, as_json, quiet, verbose)
    with talk.heard() as events:
        settings = load_settings()
        if as_json and out == "-":
            raise UsageError("Standard output is the export itself: no JSON lines fit there.", hint="Name a file.")
        wanted, place = _resolve(out, form, partition, gzip, overwrite)
        users = read_users(user, users_file)
        wanted = Wanted(wanted.format, wanted.partition, numbers, *_window(start, end), users=users, gzip=wanted.gzip)
        if users is not None and not users:
            raise UsageError("No users given.", hint="Name addresses with --user, or a file with --users-file PATH.")
        console = Voice(settings.log_format, quiet=quiet)
        with database(settings) as dsn:
            run_async(_check_schema(dsn))
            code = _export(Scene(settings, dsn, console, talk, events), wanted, place, out)
    raise typer.Exit(code)


def _export(scene: Scene, wanted: Wanted, place: Place, out: str) -> int:
    """Export, shown meanwhile, and tell what came out; returns the exit code."""
    with scene.talk.showing(scene.settings, scene.console, scene.events) as show:
        job = Export(scene.settings, scene.dsn, wanted, place)
        try:
            exported, code = run_async(watched(_until_signal(job), show, exporting(lambda: job.progress)))
        except ReaderGone:
            return EXIT_DONE
    if exported is None:
        scene.console.print("interrupted: nothing was left of the export")
    else:
        for line in _describe(exported, out):
            scene.console.print(line)
    if scene.events is not None:
        scene.events.emit("summary", **({} if exported is None else exported.as_dict()), exit_code=code)
    return code


def _resolve(
    out: str, form: Format | None, partition: Partition | None, gzip: bool, overwrite: bool
) -> tuple[Wanted, Place]:
    """What the flags leave open follows from the name. Raises: UsageError."""
    if out == "-":
        chosen = form or Format.CSV
        if partition not in (None, Partition.NONE):
            raise UsageError(f"Standard output is one stream: --partition {partition} needs a directory.")
        if chosen is Format.PARQUET and sys.stdout.isatty():
            raise UsageError("Parquet is nothing to read on a terminal.", hint="Name a file, or --format csv.")
        return _checked(Wanted(chosen, Partition.NONE, gzip=gzip)), Stdout()
    named = next((what for suffix, what in SUFFIXES.items() if out.endswith(suffix)), None)
    chosen = form or (named[0] if named else Format.PARQUET)
    if partition is None and named is not None and not Path(out).is_dir():
        packed = gzip or named[1]
        if chosen is not named[0]:
            raise UsageError(f"{out} does not look like {chosen}.", hint=f"Name a file that ends in .{chosen}.")
        return _checked(Wanted(chosen, Partition.NONE, gzip=packed)), SingleFile(Path(out), overwrite=overwrite)
    wanted = Wanted(chosen, partition or Partition.MONTH, gzip=gzip)
    return _checked(wanted), Directory(Path(out), overwrite=overwrite)


def _checked(wanted: Wanted) -> Wanted:
    if wanted.gzip and wanted.format is Format.PARQUET:
        raise UsageError("Parquet is packed already: --gzip is for CSV.")
    return wanted


def _window(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    start_ms = None if start is None else parse_instant(start, flag="--start")
    end_ms = None if end is None else parse_instant(end, flag="--end")
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise UsageError(f"--start {start} is not before --end {end}.")
    return start_ms, end_ms


async def _check_schema(dsn: str) -> None:
    async with session(dsn) as connection:
        await require_schema(connection)


async def _until_signal(job: Export) -> tuple[Exported | None, int]:
    """The export and the exit code; None for it when a signal came first."""
    code = EXIT_DONE

    def interrupt(signum: int, task: asyncio.Task[Any]) -> None:
        nonlocal code
        code = 128 + signum
        task.cancel()

    with signals(interrupt):
        try:
            return await job.execute(), EXIT_DONE
        except asyncio.CancelledError:
            return None, code or 128 + signal.SIGINT


def _describe(exported: Exported, out: str) -> Iterator[str]:
    where = "standard output" if out == "-" else out
    files = f"{len(exported.files):,} file{'' if len(exported.files) == 1 else 's'}"
    yield (
        f"{exported.rows:,} rows of {exported.users:,} users in {files} ({exported.bytes:,} bytes) to {where}, "
        f"as of {exported.snapshot_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if not exported.rows:
        yield "nothing matches: no fills of these users in this window"
    if exported.with_rows:
        yield f"of these users: {_counts(exported.with_rows)}"
    if exported.without_rows:
        yield f"without a row here: {_counts(exported.without_rows)}"
    if exported.read_for_less:
        yield f"{exported.read_for_less:,} users were read for a narrower window than this export's"
    if exported.gaps or exported.rejected_rows:
        yield f"{exported.gaps:,} recorded gaps, {exported.rejected_rows:,} rows that could not be stored as fills"
    if exported.strangers:
        yield f"not known here: {', '.join(exported.strangers[:3])}{' …' if len(exported.strangers) > 3 else ''}"


def _counts(by_word: dict[str, int]) -> str:
    return ", ".join(f"{users:,} {word.replace('_', ' ')}" for word, users in by_word.items())
