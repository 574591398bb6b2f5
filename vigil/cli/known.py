"""`status`, `migrate`, `users`: what the database knows."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Any

import typer

from vigil.cli.common import UsersFileOption, app, database, print_line, read_users, require_schema, run_async, show_day
from vigil.db import session, sql
from vigil.errors import UsageError
from vigil.pipeline import prepare_database
from vigil.report import Status, list_users, read_status
from vigil.settings import load_settings

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
def migrate() -> None:
    """Bring the database's schema up to date; `run` does this too."""
    settings = load_settings()
    with database(settings) as dsn:
        applied = run_async(prepare_database(dsn, notice=lambda text: print(text, file=sys.stderr)))
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
