"""What the commands share: the app, options, and opening what a command needs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vigil.address import normalize_address, read_addresses
from vigil.claims import Window
from vigil.db import Connection
from vigil.display import Voice
from vigil.embedded import embedded_postgres
from vigil.errors import EXIT_DONE, EXIT_SIGINT, UsageError
from vigil.migrate import pending
from vigil.pipeline import prepare_database
from vigil.settings import Settings, parse_instant

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every Hyperliquid user's historical fills, from the public API into TimescaleDB.\n\n"
    "Examples: `demo` · `plan --users 100000` · `users add --users-file users.txt` · `run` · `status --watch`",
    epilog="Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 finished but some users failed, "
    "4 differences found, 5 temporary (run again), 130/143 interrupted (run again to go on).",
)

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
    list[str] | None,
    typer.Option(
        "--lane",
        metavar="IP|PROXY|NAME",
        help="The address this worker asks from; repeat it to use several, each with its own budget."
        "  [default: the host's name]",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="The host to ask, from the sources file.  [default: hyperliquid]"),
]
StartOption = Annotated[str, typer.Option(help="First instant: ISO date (UTC) or ms since 1970.")]
EndOption = Annotated[str, typer.Option(help="End, exclusive: ISO date (UTC) or ms since 1970.")]


def read_users(addresses: list[str] | None, users_file: str | None) -> list[str] | None:
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


def parse_window(settings: Settings, start: str, end: str) -> Window:
    """The window asked for; one that reaches into the future ends a little before now."""
    start_ms, end_ms = parse_instant(start, flag="--start"), parse_instant(end, flag="--end")
    latest_ms = int((time.time() - settings.indexer_lag_seconds) * 1000)
    if start_ms >= end_ms:
        raise UsageError(f"--start {start} is not before --end {end}.")
    if start_ms >= latest_ms:
        raise UsageError(f"--start {start} is in the future.")
    return Window(start_ms, min(end_ms, latest_ms))


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The DSN to use: the one that is set, or an embedded Postgres for as long as the block runs."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    with embedded_postgres(settings.data_dir) as dsn:
        yield dsn


@contextmanager
def prepared(settings: Settings, *, quiet: bool = False) -> Iterator[tuple[str, Voice]]:
    """The database with its schema up to date, and where to talk to people."""
    console = Voice(settings.log_format, quiet=quiet)
    with database(settings) as dsn:
        run_async(prepare_database(dsn, notice=console.print))
        yield dsn, console


async def require_schema(connection: Connection) -> None:
    waiting = await pending(connection)
    if waiting and waiting[0].version == 1:
        raise UsageError(
            "This database has no backfill in it yet.",
            hint="`vigil-backfill run` begins one. If there should be one: does VIGIL_DATABASE_URL name its database?",
        )
    if waiting:
        raise UsageError("This database's schema is not up to date.", hint="Run `vigil-backfill migrate`.")


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(coroutine)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_SIGINT) from None


def print_line(text: str) -> None:
    """To stdout; a reader that has gone ends the command, and is no fault of the database."""
    try:
        print(text)
    except BrokenPipeError:
        raise SystemExit(EXIT_DONE) from None


def show_day(ms: int) -> str:
    moment = time.gmtime(ms / 1000)
    return time.strftime("%Y-%m-%d" if ms % 86_400_000 == 0 else "%Y-%m-%dT%H:%M:%SZ", moment)
