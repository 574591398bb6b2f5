"""`simulate`, `compare`, `demo`: an exchange of one's own, and whether the table equals its truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from vigil import rehearsal
from vigil.cli.common import EndOption, StartOption, app, database, parse_window, require_schema, run_async
from vigil.db import session
from vigil.demo import run_demo
from vigil.errors import EXIT_DONE, EXIT_FAILURE, UsageError
from vigil.settings import DEFAULT_END, DEFAULT_START, load_settings, parse_instant
from vigil.simulator import FaultPlan, SimulatorConfig, serve


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

    Examples: `vigil-backfill simulate --users 1000 --period-seconds 1` · `simulate --fault 429=0.02 --fault cut=0.01`
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
    run_async(serve(config, host, port, lambda url: print(f"VIGIL_API_URL={url}", flush=True)))


@app.command()
def compare(
    truth: Annotated[str, typer.Argument(metavar="URL", help="A running `vigil-backfill simulate`.")],
    start: StartOption = DEFAULT_START,
    end: EndOption = DEFAULT_END,
) -> None:
    """Compare the table with a simulator's truth, column by column; exit 1 where they differ.

    Examples: `vigil-backfill compare http://127.0.0.1:8787`
    """
    settings = load_settings()
    window = parse_window(settings, start, end)
    if not re.match(r"https?://[^/]", truth):
        raise UsageError(f"{truth!r} is no http:// URL of a simulator.")
    with database(settings) as dsn:
        run_async(_check_schema(dsn))
        found = run_async(rehearsal.compare(dsn, truth, window))
    print(f"{found.rows:,} rows of {found.users:,} users compared: missing {found.missing:,}, extra {found.extra:,}")
    for address, kind, row in found.examples:
        print(f"{kind} {address} {row}")
    raise typer.Exit(EXIT_DONE if found.equal else EXIT_FAILURE)


async def _check_schema(dsn: str) -> None:
    async with session(dsn) as connection:
        await require_schema(connection)


@app.command()
def demo() -> None:
    """Run the whole job here against a simulated exchange, and compare the table with its truth.

    Examples: `vigil-backfill demo`
    """
    raise typer.Exit(run_demo())


def _latency(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise UsageError(f"--latency {text!r} is neither a number of seconds nor MIN-MAX.") from None
