"""`status`: the whole backfill, all workers together, from the database alone; once, or again and again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vigil.cli.common import app, database, print_line, require_schema, run_async, show_day
from vigil.db import Connection, Link, session
from vigil.errors import StoreUnavailable, UsageError
from vigil.forecast import duration
from vigil.settings import Settings, load_settings
from vigil.status import LATELY_SECONDS, Status, read_status
from vigil.worker import handling

WATCH_SECONDS = 2.0

WORKERS_SHOWN = 20
"""The JSON has them all."""

Facts = list[tuple[str, str]]


@app.command()
def status(
    every: Annotated[
        float | None,
        typer.Argument(metavar="[SECONDS]", min=0.1, help="With --watch: between two looks.  [default: 2]"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C; a terminal is redrawn.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object; with --watch one a line.")] = False,
) -> None:
    """Show the state of the whole backfill, all workers together, from the database alone.

    Examples: `vigil-backfill status` · `status --watch 5` · `status --json | jq .eta_seconds`
    """
    if every is not None and not watch:
        raise UsageError("SECONDS goes with --watch.", hint="`vigil-backfill status --watch 5`")
    settings = load_settings()
    with database(settings) as dsn:
        if watch:
            run_async(_watch(dsn, settings, every or WATCH_SECONDS, as_json=as_json))
        else:
            _print(run_async(_read_once(dsn, settings)), as_json=as_json)


async def _read_once(dsn: str, settings: Settings) -> Status:
    async with session(dsn) as connection:
        return await _read(settings, connection)


async def _read(settings: Settings, connection: Connection) -> Status:
    await require_schema(connection)
    return await read_status(connection, attempts=settings.user_attempts)


async def _watch(dsn: str, settings: Settings, every: float, *, as_json: bool) -> None:
    """Show it until a signal, which is how a watch ends."""
    link = Link(dsn, settings)
    console = Console(highlight=False)

    async def look_again_and_again(live: Live | None) -> None:
        found = await link.run(partial(_read, settings), patience=0)  # a database that was never there is an error
        while True:
            if live is None:
                try:
                    _print(found, as_json=as_json, again=True)
                except SystemExit:  # who read it has gone; it must not end the loop from within a task
                    return
            else:
                live.update(_table(found), refresh=True)
            await asyncio.sleep(every)
            try:
                found = await link.run(partial(_read, settings), patience=0)
            except StoreUnavailable as error:  # one that goes away comes again: people watch restarts, too
                print(f"{error} The next look tries again.", file=sys.stderr)

    try:
        if as_json or not console.is_terminal:
            await _until_signal(look_again_and_again(None))
        else:
            with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
                await _until_signal(look_again_and_again(live))
    finally:
        await link.close()


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    watching = asyncio.ensure_future(work)

    def cancel() -> None:
        watching.cancel()

    with handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), cancel)):
        await asyncio.wait({watching})
    if not watching.cancelled():
        watching.result()


def _print(found: Status, *, as_json: bool, again: bool = False) -> None:
    if as_json:
        print_line(json.dumps(found.as_dict(), default=str))
    elif sys.stdout.isatty():
        Console(highlight=False).print(_table(found))
    else:
        for name, text in _facts(found):
            print_line(f"{name:<14} {text}")
        for name, text in _details(found):
            print_line(f"{name}: {text}")
        if again:
            print_line("")
    sys.stdout.flush()


def _table(found: Status) -> Table:
    """The same for a terminal: wide texts are folded beside their names, however narrow it is."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in [*_facts(found), *_details(found)]:
        table.add_row(name, Text(text))
    return table


def _facts(found: Status) -> Facts:
    """What there is always one of."""
    states = [(state, f"{getattr(found, state):,}") for state in ("completed", "claimed", "pending", "failed")]
    rows = [
        ("users", f"{found.users:,}"),
        *states,
        ("fills added", f"{found.fills:,}"),
        ("oldest fill", "-" if found.oldest_fill_time is None else show_day(found.oldest_fill_time)),
        ("rejected rows", f"{found.rejected_fills:,}"),
        ("gaps", f"{found.gaps:,} in {found.users_with_gaps:,} users"),
        ("workers", f"{found.workers_alive:,} alive, {found.workers_dead:,} dead"),
        ("pace", _pace(found)),
        ("left", _left(found)),
        ("faults met", ", ".join(f"{kind} {count:,}" for kind, count in found.faults.items() if count) or "none"),
        ("database", "TimescaleDB" if found.timescaledb else "plain Postgres (no hypertable)"),
    ]
    if found.daily_stale is not None:
        since, to = (show_day(found.daily_stale[edge]) for edge in ("from_ms", "to_ms"))
        rows.append(("fills_daily", f"behind within [{since}, {to}): `vigil-backfill maintain` brings it up to date"))
    if found.users_losing:
        losing = f"about {found.lost_per_hour:,.0f} fills an hour of {found.users_losing:,} users to be read"
        rows.append(("being lost", f"{losing}, {found.fills_at_stake:,} within reach"))
    return rows


def _details(found: Status) -> Facts:
    """What there may be many of."""
    rows = [("verdict", _verdict(row)) for row in found.verdicts]
    if found.unjudged:
        rows.append(("verdict", f"{found.unjudged:,} users await theirs"))
    rows += [("lane", _lane(row)) for row in found.lanes]
    workers = sorted(found.workers, key=lambda row: row["alive"])  # the dead ones first: they are news
    rows += [("worker", _worker(row, found.at)) for row in workers[:WORKERS_SHOWN]]
    if len(workers) > WORKERS_SHOWN:
        rows.append(("worker", f"and {len(workers) - WORKERS_SHOWN:,} more"))
    rows += [
        ("failed", f"{row['user_address']} after {row['attempts']} attempts: {row['last_error']}")
        for row in found.errors
    ]
    return rows


def _pace(found: Status) -> str:
    pace = found.pace
    if pace is None:
        return f"nothing was read within {duration(LATELY_SECONDS)}"
    parts = [
        f"{pace['rows_per_second']:,.0f} rows/s",
        f"{pace['users_per_hour']:,.0f} users/h",
        f"{pace['weight']:,} weight{_percent(pace['utilisation'])}",
    ]
    if pace["pauses"]:
        parts.append(f"{pace['pauses']:,} pauses")
    return f"{', '.join(parts)}, in the last {duration(pace['seconds'])}"


def _left(found: Status) -> str:
    if not found.users_left:
        return "nobody is to be read"
    if found.weight_left is None:
        return "not known yet: too few users were read to tell"
    low, expected, high = (found.weight_left[name] for name in ("low", "expected", "high"))
    weight = f"about {expected:,.0f} weight ({low:,.0f} to {high:,.0f})"
    if found.eta_seconds is None:
        return weight if found.workers_alive else f"{weight}, and nobody is at work"
    low, expected, high = (found.eta_seconds[name] for name in ("low", "expected", "high"))
    return f"{duration(expected)} ({duration(low)} to {duration(high)}), {weight}"


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.0%} of what was allowed)"


def _verdict(row: dict[str, Any]) -> str:
    text = f"{row['verdict']} {row['users']:,} users, {row['fills']:,} fills, notional {row['notional']:,.0f}"
    if row["captured_share"] is not None:
        text += f", {row['captured_share']:.0%} of the lifetime volume of {row['users_with_volume']:,} captured"
    return text


def _lane(row: dict[str, Any]) -> str:
    text = f"{row['lane']}, {row['workers']} workers, {row['used_weight']:,} of {row['share_weight']:,} weight used"
    lately = f", {row['utilisation']:.0%} within {duration(LATELY_SECONDS)}" if row["utilisation"] is not None else ""
    return f"{text} in the last period{lately}"


def _worker(row: dict[str, Any], now: datetime) -> str:
    lanes = f"{len(row['lanes'])} lanes" if len(row["lanes"]) > 1 else f"lane {row['lanes'][0]}"
    heard, since = ((now - row[name]).total_seconds() for name in ("heard_at", "started_at"))
    life = f"alive, at work for {duration(since)}" if row["alive"] else "dead"
    return f"{row['host']} (process {row['pid']}), {lanes}, {life}, heard {duration(max(heard, 0))} ago"
