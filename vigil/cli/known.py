"""`migrate`, `users`: the schema, and whom the database knows."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated

import typer

from vigil import adopt as adopting
from vigil.cli.common import UsersFileOption, app, database, print_line, read_users, require_schema, run_async
from vigil.db import session, sql
from vigil.errors import UsageError
from vigil.migrate import Migration, pending
from vigil.pipeline import prepare_database
from vigil.settings import Settings, load_settings
from vigil.status import list_users
from vigil.store import check_fills_table

USERS_AT_ONCE = 10_000

users_app = typer.Typer(
    no_args_is_help=True,
    help="The users whose fills are wanted.\n\nExamples: `users add 0x…` · `users list --state failed`",
)
app.add_typer(users_app, name="users")


class State(StrEnum):
    """The user states of `migrations/002_backfill_progress.sql`."""

    PENDING = "pending"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    FAILED = "failed"


@app.command()
def migrate(
    adopt: Annotated[
        bool, typer.Option("--adopt", help="First make a table `fills` of somebody else's vigil's (docs/adopt.md).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")] = False,
    hypertable: Annotated[
        bool,
        typer.Option("--hypertable", help="With --adopt: a plain table becomes a hypertable, which moves its rows."),
    ] = False,
) -> None:
    """Bring the database's schema up to date; `run` does this too.

    Examples: `vigil-backfill migrate` · `migrate --dry-run` · `migrate --adopt --dry-run` · `migrate --adopt`
    """
    if hypertable and not adopt:
        raise UsageError("--hypertable goes with --adopt.")
    settings = load_settings()
    with database(settings) as dsn:
        if dry_run:
            run_async(_preview(dsn, settings, adopt=adopt, hypertable=hypertable))
        elif adopt:
            try:
                result = run_async(adopting.adopt(dsn, settings.fills_columns, hypertable=hypertable, tell=_say))
            except (typer.Exit, SystemExit):
                _say("the adoption was interrupted: what is done stays done, the same command goes on")
                raise
            _print_adoption(result)
        else:
            _print_applied(run_async(prepare_database(dsn, notice=_say)))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


async def _preview(dsn: str, settings: Settings, *, adopt: bool, hypertable: bool) -> None:
    if adopt:
        for line in adopting.describe(await adopting.preview(dsn, settings.fills_columns, hypertable=hypertable)):
            print_line(line)
    async with session(dsn) as connection, connection.transaction(readonly=True):
        if not adopt:
            await check_fills_table(connection)
        waiting = await pending(connection)
    for migration in waiting:
        print(f"would apply {migration.version:03d} {migration.name}")
    if not waiting:
        print("no migrations to apply")


def _print_adoption(result: adopting.AdoptionResult) -> None:
    match result.way:
        case adopting.Way.RIGHT:
            print("nothing to adopt: the table is as it should be")
        case adopting.Way.IN_PLACE:
            print("adopted in place")
        case adopting.Way.COPY:
            print(f"adopted by copy; the old table is `{adopting.OLD_TABLE}`: DROP TABLE {adopting.OLD_TABLE};")
    if (counts := result.counts) is not None and counts.inserted + counts.already_there + counts.rejected:
        print(
            f"{counts.inserted:,} rows taken in, {counts.already_there:,} were there twice,"
            f" {counts.rejected:,} in rejected_fills"
        )
    _print_applied(result.applied)


def _print_applied(applied: list[Migration]) -> None:
    for migration in applied:
        print(f"applied {migration.version:03d} {migration.name}")
    if not applied:
        print("nothing to apply: the schema is up to date")


@users_app.command("add")
def users_add(
    addresses: Annotated[list[str] | None, typer.Argument(metavar="[0x…]...")] = None,
    users_file: UsersFileOption = None,
) -> None:
    """Make users known, so that the next `run` fetches them.

    Examples: `vigil-backfill users add 0x… 0x…` · `users add --users-file users.txt`
    """
    settings = load_settings()
    users = read_users(addresses, users_file)
    if not users:
        raise UsageError("No users given.", hint="Name addresses, or a file with --users-file PATH.")
    with database(settings) as dsn:
        run_async(prepare_database(dsn))
        added = run_async(_add_users(dsn, users))
    print(f"{added} users added, {len(users) - added} known already")


@users_app.command("list")
def users_list(
    state: Annotated[State | None, typer.Option(help="Only users in this state.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines with all that is known of each.")] = False,
) -> None:
    """List the known users by address.

    Examples: `vigil-backfill users list --state failed` · `users list --json | jq -r .user_address`
    """
    settings = load_settings()

    async def show(dsn: str) -> None:
        async with session(dsn) as connection:
            await require_schema(connection)
            async with aclosing(list_users(connection, state)) as rows:
                async for row in rows:
                    short = f"{row['user_address']}  {row['state']:<9}  {row['fills_count']:>9}"
                    print_line(json.dumps(row, default=str) if as_json else short)

    with database(settings) as dsn:
        run_async(show(dsn))


async def _add_users(dsn: str, users: list[str]) -> int:
    added = 0
    async with session(dsn) as connection:
        for i in range(0, len(users), USERS_AT_ONCE):
            done = await connection.execute(sql("enroll_listed"), users[i : i + USERS_AT_ONCE])
            added += int(done.rsplit(" ", 1)[1])
    return added
