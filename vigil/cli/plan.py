"""`plan`: what a backfill will cost, before anything is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.filesize import decimal

from vigil.cli.backfill import TwapOption, VolumeOption
from vigil.cli.common import (
    EndOption,
    SourceOption,
    StartOption,
    UserOption,
    UsersFileOption,
    app,
    database,
    parse_window,
    read_users,
    require_schema,
    run_async,
    show_day,
)
from vigil.db import session
from vigil.errors import UsageError
from vigil.forecast import Forecast, duration
from vigil.known import Job, Known, is_empty, nothing_known, read_known
from vigil.pipeline import Twap
from vigil.plan import ADDRESSES, ENOUGH, Basis, Plan
from vigil.plan import plan as make_plan
from vigil.settings import DEFAULT_END, DEFAULT_START, Settings, load_settings
from vigil.sources import MAIN_SOURCE, load_source

NAMES = {
    "unread": "not read yet",
    "partly": "partly read",
    "slices": "read but for their TWAP slices",
    "finished": "read already",
    "parked": "failed and parked (`retry`)",
    "elsewhere": "left to another source",
}


@app.command()
def plan(
    users: Annotated[
        int | None,
        typer.Option("--users", min=1, metavar="N", help="So many users of whom nothing is known; needs no database."),
    ] = None,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    start: StartOption = DEFAULT_START,
    end: EndOption = DEFAULT_END,
    twap: TwapOption = Twap.AUTO,
    volume_check: VolumeOption = False,
    source: SourceOption = None,
    addresses: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of addresses to tell the time for, beside 1, 4 and 10.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object (docs/plan.md).")] = False,
) -> None:
    """Tell what a backfill will cost: weight, hours by addresses, rows, disk. Fetches nothing and changes nothing.

    It goes by what the database knows: users read so far, rows of archives; else by an assumption, and says so.

    Examples: `vigil-backfill plan` · `plan --users 100000 --addresses 2,30` · `plan --users-file users.txt --json`
    """
    settings = load_settings()
    host = load_source(settings, source or MAIN_SOURCE)
    named = read_users(user, users_file)
    if users is not None and named is not None:
        raise UsageError("--users is a number of users, and --user or --users-file names them: not both.")
    counts = _numbers(addresses)
    job = Job(parse_window(settings, start, end), host, named, settings.user_attempts, twap, volume_check)
    known = nothing_known(users) if users is not None else _ask(settings, job)
    found = make_plan(job, known)
    period = settings.weight_period_seconds
    if as_json:
        print(json.dumps(found.as_dict(counts, period)))
        return
    for line in (*_facts(found), "", *_table(found, counts, period), "", *_notes(found)):
        print(line)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and 0 < int(word) < 1_000_000 for word in words):
        raise UsageError(f"--addresses {text!r} is no list of numbers.", hint="For example 2,30.")
    return sorted({*ADDRESSES, *map(int, words)})


def _ask(settings: Settings, job: Job) -> Known:
    """What the database knows; nothing where there is none yet: none is made for this."""
    known = None
    if settings.database_url is not None or (settings.data_dir / "cluster" / "PG_VERSION").exists():
        with database(settings) as dsn:
            known = run_async(_read(dsn, job))
    if known is not None:
        return known
    if job.users is None:
        raise UsageError(
            "There is no database that knows any users yet.", hint="Name them with --users-file, or say --users N."
        )
    return nothing_known(len(job.users))


async def _read(dsn: str, job: Job) -> Known | None:
    """None: an empty database."""
    async with session(dsn) as connection:
        if await is_empty(connection):
            return None
        await require_schema(connection)
        return await read_known(connection, job)


def _facts(found: Plan) -> Iterable[str]:
    job, users, cost = found.job, found.known.users, found.cost
    told = [f"{count:,} {NAMES[kind]}" for kind, count in users.items() if count]
    packed = found.packed_bytes
    smaller = "plain Postgres has no compression" if packed is None else f"{_size(packed)} packed in the columnstore"
    if packed is not None and found.known.packs is None:
        smaller = f"on TimescaleDB {smaller}"
    rows = {
        "window": f"[{show_day(job.window.start_ms)}, {show_day(job.window.end_ms)}) from {job.source.name}",
        "users": f"{found.to_read:,} to read" + (f": {', '.join(told)}" if told else ""),
        "weight": f"{_numbers_of(cost.weight)} in {_numbers_of(found.requests)} requests",
        "rows": _numbers_of(cost.rows),
        "disk": f"{_size(found.disk_bytes)}; {smaller}",
    }
    return (f"{name:<10} {text}" for name, text in rows.items())


def _table(found: Plan, counts: list[int], period_seconds: float) -> Iterable[str]:
    yield f"{'addresses':<10} {'time':<10} range"
    for count in counts:
        time = found.seconds(count, period_seconds)
        yield f"{count:<10,} {_hours(time.expected):<10} {_hours(time.low)} to {_hours(time.high)}"


def _notes(found: Plan) -> Iterable[str]:
    source, read = found.job.source, found.known.read
    if Basis.READ in found.bases:
        yield f"Users not read yet are taken to be like the {read:,} that have been read."
    if Basis.ARCHIVES in found.bases:
        yield "Users whose history is being lost are guessed from their fills after the window (docs/urgency.md)."
    if Basis.PRIOR in found.bases:
        few = f"only {read:,} have been read, fewer than {ENOUGH}" if read else "none has been read"
        yield (
            f"This is an assumption, no measurement: {few}, so users are taken to have histories as a distribution"
            " says that nobody has checked (docs/plan.md). `run --limit 200`, and then `plan` again, knows better."
        )
    if found.to_read:
        page = source.base_weight + -(-source.page_rows // source.rows_per_weight)
        yield (
            f"{source.base_weight} weight a request and 1 for every {source.rows_per_weight} rows: {page} for a full"
            f" page of {source.page_rows:,}; {source.weight_per_minute:,} weight for each address and period."
        )
    whose = "measured here" if found.known.row_bytes else "measured elsewhere (docs/timescaledb.md)"
    yield f"{found.row_bytes:.0f} bytes a row with its key's index, {whose}; faults and restarts are not in it."


def _hours(seconds: float) -> str:
    """Hours even where they are days: rows of a table are compared."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else duration(seconds)


def _numbers_of(forecast: Forecast) -> str:
    return f"{forecast.expected:,.0f} ({forecast.low:,.0f} to {forecast.high:,.0f})"


def _size(forecast: Forecast) -> str:
    low, expected, high = (decimal(round(value)) for value in (forecast.low, forecast.expected, forecast.high))
    return f"{expected} ({low} to {high})"
