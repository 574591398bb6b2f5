"""`status`, `migrate`, `users`: what the database knows."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Any

import typer

from vigil import adopt as adopting
from vigil.cli.common import UsersFileOption, app, database, print_line, read_users, require_schema, run_async, show_day
from vigil.db import session, sql
from vigil.errors import UsageError
from vigil.migrate import Migration, pending
from vigil.pipeline import prepare_database
from vigil.settings import Settings, load_settings
from vigil.status import Status, list_users, read_status
from vigil.store import check_fills_table

USERS_AT_ONCE = 10_000

users_app = typer.Typer(no_args_is_help=True, help="The users whose fills are wanted.")
app.add_typer(users_app, name="users")


class State(StrEnum):
    """The user states of `migrations/002_backfill_progress.sql`."""

    PENDING = "pending"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    FAILED = "failed"


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show the state of the whole backfill, all workers together, from the database alone."""
    settings = load_settings()
    with database(settings) as dsn:
        found = run_async(_read_status(dsn))
    if as_json:
        print(json.dumps(found.as_dict(), default=str))
    else:
        _print_status(found)


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
    """Bring the database's schema up to date; `run` does this too."""
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
    """Make users known, so that the next `run` fetches them."""
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
    """List the known users by address."""
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


async def _read_status(dsn: str) -> Status:
    async with session(dsn) as connection:
        await require_schema(connection)
        return await read_status(connection)


async def _add_users(dsn: str, users: list[str]) -> int:
    added = 0
    async with session(dsn) as connection:
        for i in range(0, len(users), USERS_AT_ONCE):
            done = await connection.execute(sql("enroll_listed"), users[i : i + USERS_AT_ONCE])
            added += int(done.rsplit(" ", 1)[1])
    return added


def _print_status(found: Status) -> None:
    rows = {
        "users": f"{found.users:,}",
        **{state: f"{getattr(found, state):,}" for state in ("completed", "claimed", "pending", "failed")},
        "fills added": f"{found.fills:,}",
        "oldest fill": "-" if found.oldest_fill_time is None else show_day(found.oldest_fill_time),
        "rejected rows": f"{found.rejected_fills:,}",
        "gaps": f"{found.gaps:,} in {found.users_with_gaps:,} users",
        "workers": f"{found.workers_alive:,} alive, {found.workers_dead:,} dead",
        "faults met": ", ".join(f"{kind} {count:,}" for kind, count in found.faults.items() if count) or "none",
        "database": "TimescaleDB" if found.timescaledb else "plain Postgres (no hypertable)",
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    for row in found.verdicts:
        print(f"verdict: {_describe_verdict(row)}")
    if found.unjudged:
        print(f"verdict: {found.unjudged:,} users await theirs")
    if found.daily_stale is not None:
        since, to = (show_day(found.daily_stale[edge]) for edge in ("from_ms", "to_ms"))
        print(f"{'fills_daily':<14} behind within [{since}, {to}): `vigil-backfill maintain` brings it up to date")
    if found.users_losing:
        print(
            f"{'being lost':<14} about {found.lost_per_hour:,.0f} fills an hour of {found.users_losing:,} users to be"
            f" read, {found.fills_at_stake:,} within reach"
        )
    for row in found.lanes:
        share, used = row["share_weight"], row["used_weight"]
        print(f"lane: {row['lane']}, {row['workers']} workers, {used:,} of {share:,} weight used in the last period")
    for row in found.errors:
        print(f"failed: {row['user_address']} after {row['attempts']} attempts: {row['last_error']}")


def _describe_verdict(row: dict[str, Any]) -> str:
    text = f"{row['verdict']} {row['users']:,} users, {row['fills']:,} fills, notional {row['notional']:,.0f}"
    if row["captured_share"] is not None:
        text += f", {row['captured_share']:.0%} of the lifetime volume of {row['users_with_volume']:,} captured"
    return text
