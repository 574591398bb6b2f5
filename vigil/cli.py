"""The commands: they read flags, open what a command needs, print what comes back, map errors to exit codes.

Nothing is decided here that a library user would miss. Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import aclosing, contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from rich.console import Console

from vigil import rehearsal
from vigil.address import normalize_address, read_addresses
from vigil.claims import Shard, Window
from vigil.db import Connection, session, sql
from vigil.demo import run_demo
from vigil.display import describe, progress_display
from vigil.embedded import embedded_postgres
from vigil.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SIGINT, EXIT_SIGTERM, UsageError, VigilError
from vigil.migrate import pending
from vigil.pipeline import Run, Tally, prepare_database
from vigil.report import FailedUser, Status, failed_users, list_users, read_status
from vigil.settings import DEFAULT_END, DEFAULT_START, Settings, load_settings, parse_instant
from vigil.simulator import FaultPlan, SimulatorConfig, serve

T = TypeVar("T")
USERS_AT_ONCE = 10_000

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every Hyperliquid user's historical fills, from the public API into TimescaleDB.",
    epilog="Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 finished but some users failed, "
    "5 temporary (run again), 130/143 interrupted (run again to go on).",
)
users_app = typer.Typer(no_args_is_help=True, help="The users whose fills are wanted.")
app.add_typer(users_app, name="users")


class State(StrEnum):
    """The user states of `migrations/002_backfill_progress.sql`."""

    PENDING = "pending"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    FAILED = "failed"


UserOption = Annotated[
    list[str] | None, typer.Option("--user", metavar="0x…", help="Only this user; may be given more than once.")
]
UsersFileOption = Annotated[
    str | None, typer.Option("--users-file", metavar="PATH|-", help="Only these users: an address a line, # comments.")
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", help="Users paged at the same time.  [default: 8]")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=0, help="Stop after this many users.")]
LaneOption = Annotated[
    str | None,
    typer.Option("--lane", metavar="NAME", help="The address this worker asks from.  [default: the host's name]"),
]
StartOption = Annotated[str, typer.Option(help="First instant: ISO date (UTC) or ms since 1970.")]
EndOption = Annotated[str, typer.Option(help="End, exclusive: ISO date (UTC) or ms since 1970.")]


@app.callback()
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if show_version:
        print(version("vigil-backfill"))
        raise typer.Exit


@app.command()
def run(
    concurrency: ConcurrencyOption = None,
    limit: LimitOption = None,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    start: StartOption = DEFAULT_START,
    end: EndOption = DEFAULT_END,
    worker_id: Annotated[int, typer.Option(min=0, help="This worker's number, 0 to total - 1.")] = 0,
    total_workers: Annotated[int, typer.Option(min=1, help="Workers that share the users by hash.")] = 1,
    lane: LaneOption = None,
) -> None:
    """Fetch the fills of all known users, or of those named; goes on where the last run stopped.

    Known users: those of `backfill_progress` not yet completed, and every user found in `fills`.

    Examples: `vigil-backfill run --concurrency 8` · `run --limit 5` · `run --user 0x… --end 2025-01-01` ·
    `run --worker-id 0 --total-workers 4`
    """
    settings = load_settings(concurrency=concurrency, lane=lane)
    users = _read_users(user, users_file)
    window = _window(settings, start, end)
    if worker_id >= total_workers:
        raise UsageError(f"--worker-id {worker_id} is not one of 0 to {total_workers - 1} (--total-workers).")
    with _prepared(settings) as (dsn, console):
        code = _backfill(
            settings, dsn, console, window, users=users, shard=Shard(worker_id, total_workers), limit=limit
        )
    raise typer.Exit(code)


@app.command()
def retry(
    concurrency: ConcurrencyOption = None,
    limit: LimitOption = None,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    start: Annotated[str | None, typer.Option(help="As of `run`.  [default: as they were to be read]")] = None,
    end: Annotated[str | None, typer.Option(help="As of `run`.  [default: as they were to be read]")] = None,
    lane: LaneOption = None,
) -> None:
    """Try failed users again, all or those named, however often they have failed.

    A user that fails VIGIL_USER_ATTEMPTS times is parked: `run` passes over it, `status` tells why it failed.
    """
    settings = load_settings(concurrency=concurrency, lane=lane)
    named = _read_users(user, users_file)
    with _prepared(settings) as (dsn, console):
        failed = [one for one in _run(_read_failed(dsn)) if named is None or one.user in set(named)]
        if not failed:
            console.print("no user has failed: nothing to try again", highlight=False)
            raise typer.Exit(EXIT_DONE)
        window = _window(
            settings,
            start or str(min(one.start_ms for one in failed)),
            end or str(max(one.end_ms for one in failed)),
        )
        users = [one.user for one in failed]
        code = _backfill(settings, dsn, console, window, users=users, limit=limit, retry=True)
    raise typer.Exit(code)


def _backfill(settings: Settings, dsn: str, console: Console, window: Window, **what: Any) -> int:
    """One `Run` over `what`, shown on the console; returns the exit code."""
    with progress_display(console, settings.progress_seconds) as display:
        job = Run(settings, dsn, window, display=display, **what)
        console.print(
            f"reading [{_day(window.start_ms)}, {_day(window.end_ms)}) from {settings.shown_api_url}, "
            f"{settings.concurrency} users at a time, at most {job.rows_in_memory:,} rows in memory",
            highlight=False,
            soft_wrap=True,
        )
        try:
            tally = _run(job.execute())
        except asyncio.CancelledError:  # the second signal
            tally = job.tally
        except VigilError:
            _summarize(console, job.tally)
            raise
        _summarize(console, tally)
    return tally.exit_code


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show the state of the whole backfill, all workers together, from the database alone."""
    settings = load_settings()
    with _database(settings) as dsn:
        found = _run(_read_status(dsn))
    if as_json:
        print(json.dumps(found.as_dict(), default=str))
    else:
        _print_status(found)


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date; `run` does this too."""
    settings = load_settings()
    with _database(settings) as dsn:
        applied = _run(prepare_database(dsn, notice=lambda text: print(text, file=sys.stderr)))
    for migration in applied:
        print(f"applied {migration.version:03d} {migration.name}")
    if not applied:
        print("nothing to apply: the schema is up to date")


@users_app.command("add")
def users_add(
    addresses: Annotated[list[str] | None, typer.Argument(metavar="[0x…]...")] = None,
    users_file: UsersFileOption = None,
) -> None:
    """Make users known, so that the next `run` fetches them."""
    settings = load_settings()
    users = _read_users(addresses, users_file)
    if not users:
        raise UsageError("No users given.", hint="Name addresses, or a file with --users-file PATH.")
    with _database(settings) as dsn:
        _run(prepare_database(dsn))
        added = _run(_add_users(dsn, users))
    print(f"{added} users added, {len(users) - added} known already")


@users_app.command("list")
def users_list(
    state: Annotated[State | None, typer.Option(help="Only users in this state.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines with all that is known of each.")] = False,
) -> None:
    """List the known users by address."""
    settings = load_settings()

    async def show(dsn: str) -> None:
        async with session(dsn) as connection:
            await _require_schema(connection)
            async with aclosing(list_users(connection, state)) as rows:
                async for row in rows:
                    short = f"{row['user_address']}  {row['state']:<9}  {row['fills_count']:>9}"
                    _print_line(json.dumps(row, default=str) if as_json else short)

    with _database(settings) as dsn:
        _run(show(dsn))


@app.command()
def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8787,
    users: Annotated[int, typer.Option(min=0, help="Size of the made-up population.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same population.")] = 0,
    scale: Annotated[float, typer.Option(help="Multiplies the length of every history.")] = 1.0,
    replay: Annotated[Path | None, typer.Option(help="Also serve the recorded answers in this directory.")] = None,
    shift: Annotated[
        bool, typer.Option("--shift", help="Move recorded users' fills to just before the default window's end.")
    ] = False,
    weight_per_minute: Annotated[int, typer.Option(min=0, help="The budget; 0 is none.")] = 1200,
    period_seconds: Annotated[float, typer.Option(help='Length of the "minute".')] = 60.0,
    window_model: Annotated[str, typer.Option(help="The minute is measured as: sliding, fixed, bucket.")] = "sliding",
    latency: Annotated[str, typer.Option(help="Seconds before an answer, one number or MIN-MAX.")] = "0",
    retention_rows: Annotated[int, typer.Option(help="Newest fills of a user within reach.")] = 10_000,
    page_rows: Annotated[int, typer.Option(help="Rows of a full page.")] = 2000,
    moving: Annotated[float, typer.Option(help="Share of users that keep trading, 0 to 1.")] = 0.0,
    moving_fills_per_hour: Annotated[float, typer.Option(help="Of each of them, in simulated time.")] = 0.0,
    speed: Annotated[float, typer.Option(help="Simulated seconds in a real one.")] = 1.0,
    fault: Annotated[
        list[str] | None, typer.Option(help="KIND=PROBABILITY, for example 429=0.02 or cut=0.01; repeatable.")
    ] = None,
) -> None:
    """Serve a simulated exchange to rehearse against; point VIGIL_API_URL at it.

    It tells its truth at /truth and /truth/0x…, and what it was asked at /stats.
    """
    config = SimulatorConfig(
        users=users,
        seed=seed,
        scale=scale,
        replay=replay,
        replay_shift_end_ms=parse_instant(DEFAULT_END, flag="--end") if shift else None,
        weight_per_minute=weight_per_minute,
        period_seconds=period_seconds,
        window_model=cast("Any", window_model),
        latency_seconds=_latency(latency),
        retention_rows=retention_rows,
        page_rows=page_rows,
        moving=moving,
        moving_fills_per_hour=moving_fills_per_hour,
        speed=speed,
        faults=FaultPlan.parse(fault or [], seed=seed),
    )
    _run(serve(config, host, port, lambda url: print(f"VIGIL_API_URL={url}", flush=True)))


@app.command()
def compare(
    truth: Annotated[str, typer.Argument(metavar="URL", help="A running `vigil-backfill simulate`.")],
    start: StartOption = DEFAULT_START,
    end: EndOption = DEFAULT_END,
) -> None:
    """Compare the table with a simulator's truth, column by column; exit 1 where they differ."""
    settings = load_settings()
    window = _window(settings, start, end)
    with _database(settings) as dsn:
        found = _run(rehearsal.compare(dsn, truth, window))
    print(f"{found.rows:,} rows of {found.users:,} users compared: missing {found.missing:,}, extra {found.extra:,}")
    for address, kind, row in found.examples:
        print(f"{kind} {address} {row}")
    raise typer.Exit(EXIT_DONE if found.equal else EXIT_FAILURE)


@app.command()
def demo() -> None:
    """Run the whole job here against a simulated exchange, and compare the table with its truth."""
    raise typer.Exit(run_demo())


def _latency(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise UsageError(f"--latency {text!r} is neither a number of seconds nor MIN-MAX.") from None


def _read_users(addresses: list[str] | None, users_file: str | None) -> list[str] | None:
    """The users named by hand, checked, lower case, each once, in order; None when none are named."""
    if addresses is None and users_file is None:
        return None
    users = [normalize_address(address) for address in addresses or ()]
    if users_file is not None:
        source = "standard input" if users_file == "-" else users_file
        try:
            if users_file == "-":
                users += read_addresses(sys.stdin, source=source)
            else:
                with Path(users_file).open(encoding="utf-8") as file:
                    users += read_addresses(file, source=source)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source} can't be read: {getattr(error, 'strerror', None) or error}.") from error
    return list(dict.fromkeys(users))


def _window(settings: Settings, start: str, end: str) -> Window:
    """The window asked for; one that reaches into the future ends a little before now."""
    start_ms, end_ms = parse_instant(start, flag="--start"), parse_instant(end, flag="--end")
    latest_ms = int((time.time() - settings.indexer_lag_seconds) * 1000)
    if start_ms >= end_ms:
        raise UsageError(f"--start {start} is not before --end {end}.")
    if start_ms >= latest_ms:
        raise UsageError(f"--start {start} is in the future.")
    return Window(start_ms, min(end_ms, latest_ms))


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """The DSN to use: the one that is set, or an embedded Postgres for as long as the block runs."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    with embedded_postgres(settings.data_dir) as dsn:
        yield dsn


@contextmanager
def _prepared(settings: Settings) -> Iterator[tuple[str, Console]]:
    """The database with its schema up to date, and where to talk to people."""
    console = Console(stderr=True)
    with _database(settings) as dsn:
        _run(prepare_database(dsn, notice=console.print))
        yield dsn, console


async def _require_schema(connection: Connection) -> None:
    if await pending(connection):
        raise UsageError("This database's schema is not up to date.", hint="Run `vigil-backfill migrate`.")


async def _read_status(dsn: str) -> Status:
    async with session(dsn) as connection:
        await _require_schema(connection)
        return await read_status(connection)


async def _read_failed(dsn: str) -> list[FailedUser]:
    async with session(dsn) as connection:
        return await failed_users(connection)


async def _add_users(dsn: str, users: list[str]) -> int:
    added = 0
    async with session(dsn) as connection:
        for i in range(0, len(users), USERS_AT_ONCE):
            done = await connection.execute(sql("enroll_listed"), users[i : i + USERS_AT_ONCE])
            added += int(done.rsplit(" ", 1)[1])
    return added


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(coroutine)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_SIGINT) from None


def _summarize(console: Console, tally: Tally) -> None:
    done = f"{tally.users_done:,} users completed, {describe(tally)}, {tally.already_there:,} fills already there"
    console.print(done, highlight=False, soft_wrap=True)
    if tally.exit_code in (EXIT_SIGINT, EXIT_SIGTERM):
        console.print("interrupted: everything committed stays; run the same command to go on", highlight=False)
    elif tally.users_claimed == 0:
        nothing = "nothing to read: each user known or named is complete for this window (`users add` makes more known)"
        console.print(nothing, highlight=False, soft_wrap=True)
    if tally.users_left_failed:
        failed = (
            f"{tally.users_left_failed:,} users failed: `vigil-backfill status` tells why, `retry` tries them again"
        )
        console.print(failed, highlight=False, soft_wrap=True)


def _print_status(found: Status) -> None:
    rows = {
        "users": f"{found.users:,}",
        **{state: f"{getattr(found, state):,}" for state in ("completed", "claimed", "pending", "failed")},
        "fills added": f"{found.fills:,}",
        "oldest fill": "-" if found.oldest_fill_time is None else _day(found.oldest_fill_time),
        "rejected rows": f"{found.rejected_fills:,}",
        "gaps": f"{found.gaps:,} in {found.users_with_gaps:,} users",
        "workers": f"{found.workers_alive:,} alive, {found.workers_dead:,} dead",
        "faults met": ", ".join(f"{kind} {count:,}" for kind, count in found.faults.items() if count) or "none",
        "database": "TimescaleDB" if found.timescaledb else "plain Postgres (no hypertable)",
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    for row in found.lanes:
        share, used = row["share_weight"], row["used_weight"]
        print(f"lane: {row['lane']}, {row['workers']} workers, {used:,} of {share:,} weight used in the last period")
    for row in found.errors:
        print(f"failed: {row['user_address']} after {row['attempts']} attempts: {row['last_error']}")


def _print_line(text: str) -> None:
    """To stdout; a reader that has gone ends the command, and is no fault of the database."""
    try:
        print(text)
    except BrokenPipeError:
        raise SystemExit(EXIT_DONE) from None


def _day(ms: int) -> str:
    moment = time.gmtime(ms / 1000)
    return time.strftime("%Y-%m-%d" if ms % 86_400_000 == 0 else "%Y-%m-%dT%H:%M:%SZ", moment)


def main() -> None:
    """Entry point: `VigilError`s become one sentence, a hint and an exit code."""
    debug = "--debug" in sys.argv
    if debug:  # accepted anywhere on the line
        sys.argv[1:] = ["--debug", *(word for word in sys.argv[1:] if word != "--debug")]
    try:
        app()
    except VigilError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `vigil-backfill users list | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_DONE)
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGINT)
    except Exception as error:
        if debug:
            raise
        print(f"error: a bug of vigil: {type(error).__name__}: {error}", file=sys.stderr)
        print("Nothing committed is lost. --debug shows the traceback; please report it.", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
