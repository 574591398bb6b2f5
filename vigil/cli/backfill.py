"""`run` and `retry`: the backfill itself."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from vigil.allowance import Limit, parse_span
from vigil.claims import Shard, Window, users_to_ask
from vigil.cli.common import (
    ConcurrencyOption,
    EndOption,
    LaneOption,
    LimitOption,
    SourceOption,
    StartOption,
    UserOption,
    UsersFileOption,
    app,
    parse_window,
    prepared,
    read_users,
    run_async,
    show_day,
)
from vigil.cli.talk import JsonOption, MetricsOption, ProgressOption, QuietOption, Scene, Talk, VerboseOption
from vigil.db import Link, session
from vigil.display import Progress, Voice, describe
from vigil.errors import EXIT_DONE, EXIT_SIGINT, EXIT_SIGTERM, UsageError, VigilError
from vigil.forecast import duration
from vigil.judge import Judge
from vigil.pipeline import Run, Twap, tend_after
from vigil.settings import DEFAULT_END, DEFAULT_START, Settings, load_settings
from vigil.sources import MAIN_SOURCE, load_source
from vigil.status import FailedUser, failed_users
from vigil.tally import Tally
from vigil.verdict import Verdict

TwapOption = Annotated[
    Twap,
    typer.Option(help="Whose TWAP slices to read: of those whose position chain they might mend, of all, or of none."),
]
VolumeOption = Annotated[
    bool,
    typer.Option(
        "--volume-check", help="Ask for each user's lifetime volume too (20 weight), to set the rows against."
    ),
]

MaxDurationOption = Annotated[
    str | None,
    typer.Option("--max-duration", metavar="2h30m", help="Begin no page after so long; what was read is committed."),
]
MaxWeightOption = Annotated[
    int | None,
    typer.Option("--max-weight", min=1, metavar="N", help="Spend no more weight than that, of all addresses together."),
]
OnlyOption = Annotated[
    list[Verdict] | None,
    typer.Option("--only", help="Only users with this verdict; repeatable. With --source: ask that host for them too."),
]


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
    twap: TwapOption = Twap.AUTO,
    volume_check: VolumeOption = False,
    source: SourceOption = None,
    only: OnlyOption = None,
    max_duration: MaxDurationOption = None,
    max_weight: MaxWeightOption = None,
    metrics_port: MetricsOption = None,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fetch the fills of all known users, or of those named; goes on where the last run stopped.

    Known users: those of `backfill_progress` not yet completed, and every user found in `fills`.

    Examples: `vigil-backfill run --concurrency 8` · `run --limit 5` · `run --user 0x… --end 2025-01-01` ·
    `run --worker-id 0 --total-workers 4` · `run --max-duration 2h30m` · `run --only truncated --source other`
    """
    talk = Talk(progress, as_json, quiet, verbose)
    with talk.heard() as events:
        settings = load_settings(concurrency=concurrency, lane=lane, metrics_port=metrics_port)
        host = load_source(settings, source or MAIN_SOURCE)
        limits = _limits(max_duration, max_weight)
        users = read_users(user, users_file)
        window = parse_window(settings, start, end)
        if worker_id >= total_workers:
            raise UsageError(f"--worker-id {worker_id} is not one of 0 to {total_workers - 1} (--total-workers).")
        shard = Shard(worker_id, total_workers)
        with prepared(settings, quiet=quiet) as (dsn, console):
            if only:
                users = _choose(settings, dsn, console, only, shard, users, source)
                if not users:
                    if events is not None:
                        events.summary(Tally())
                    raise typer.Exit(EXIT_DONE)
            code = _backfill(
                Scene(settings, dsn, console, talk, events),
                window,
                users=users,
                shard=shard,
                limit=limit,
                twap=twap,
                volume_check=volume_check,
                source=host,
                ask=bool(only and source),
                **limits,
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
    twap: TwapOption = Twap.AUTO,
    volume_check: VolumeOption = False,
    source: SourceOption = None,
    max_duration: MaxDurationOption = None,
    max_weight: MaxWeightOption = None,
    metrics_port: MetricsOption = None,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Try failed users again, all or those named, however often they have failed.

    A user that fails VIGIL_USER_ATTEMPTS times is parked: `run` passes over it, `status` tells why it failed.

    Examples: `vigil-backfill retry` · `retry --user 0x…` · `retry --max-duration 1h`
    """
    talk = Talk(progress, as_json, quiet, verbose)
    with talk.heard() as events:
        settings = load_settings(concurrency=concurrency, lane=lane, metrics_port=metrics_port)
        host = load_source(settings, source or MAIN_SOURCE)
        limits = _limits(max_duration, max_weight)
        named = read_users(user, users_file)
        with prepared(settings, quiet=quiet) as (dsn, console):
            wanted = None if named is None else frozenset(named)
            failed = [one for one in run_async(_read_failed(dsn)) if wanted is None or one.user in wanted]
            if not failed:
                console.print("no user has failed: nothing to try again")
                if events is not None:
                    events.summary(Tally())
                raise typer.Exit(EXIT_DONE)
            window = parse_window(
                settings,
                start or str(min(one.start_ms for one in failed)),
                end or str(max(one.end_ms for one in failed)),
            )
            code = _backfill(
                Scene(settings, dsn, console, talk, events),
                window,
                users=[one.user for one in failed],
                limit=limit,
                retry=True,
                twap=twap,
                volume_check=volume_check,
                source=host,
                **limits,
            )
    raise typer.Exit(code)


def _backfill(scene: Scene, window: Window, **what: Any) -> int:
    """One `Run` over `what`, shown on the console and told as events; returns the exit code."""
    settings, console, events = scene.settings, scene.console, scene.events
    if events is not None:
        what["on_user"] = events.user_done
    with scene.talk.shown(settings, console, events) as display:
        job = Run(settings, scene.dsn, window, display=display, **what)
        console.print(
            f"reading [{show_day(window.start_ms)}, {show_day(window.end_ms)}) from {job.source.shown_api_url}, "
            f"{job.pagers} users at a time, at most {job.rows_in_memory:,} rows in memory",
        )
        try:
            tally = run_async(job.execute())
        except asyncio.CancelledError:  # the second signal
            tally = job.tally
        except VigilError:
            _summarize(console, job.tally, stopped=True)
            raise
        _summarize(console, tally)
    if tally.limit is not Limit.DURATION:  # the time is up
        run_async(tend_after(tally, settings, scene.dsn, console.print))
    if events is not None:
        events.summary(tally)
    return tally.exit_code


def _limits(max_duration: str | None, max_weight: int | None) -> dict[str, Any]:
    """For `Run`. Raises: UsageError."""
    seconds = None if max_duration is None else parse_span(max_duration, flag="--max-duration")
    return {"max_seconds": seconds, "max_weight": max_weight}


def _choose(
    settings: Settings,
    dsn: str,
    console: Voice,
    verdicts: list[Verdict],
    shard: Shard,
    named: list[str] | None,
    source: str | None,
) -> list[str]:
    """The users with these verdicts, among those named if some are; says so when there are none."""
    words = " or ".join(dict.fromkeys(verdicts))
    if source is None:
        nothing_more = f"{MAIN_SOURCE} has nothing more for users read already, unless the window is wider now"
        console.print(f"{nothing_more}; --source NAME asks another host for them")
    asked = run_async(_read_users_to_ask(settings, dsn, verdicts, shard, source))
    wanted = frozenset(asked if named is None else named)
    users = [user for user in asked if user in wanted]
    if not users:
        among = "user" if named is None else "user named"
        console.print(f"no {among} has the verdict {words}: nothing to read")
    return users


async def _read_users_to_ask(
    settings: Settings, dsn: str, verdicts: list[Verdict], shard: Shard, source: str | None
) -> list[str]:
    link = Link(dsn, settings)
    try:  # a run that was killed may have left users that await their verdict
        await Judge(link, shard.range, ask_for_slices=False).judge_all()
        return await link.run(lambda connection: users_to_ask(connection, verdicts, source))
    finally:
        await link.close()


async def _read_failed(dsn: str) -> list[FailedUser]:
    async with session(dsn) as connection:
        return await failed_users(connection)


def _summarize(console: Voice, tally: Tally, *, stopped: bool = False) -> None:
    done = f"{tally.users_done:,} users completed, {describe(tally)}, {tally.already_there:,} fills already there"
    console.print(done)
    if tally.exit_code in (EXIT_SIGINT, EXIT_SIGTERM):
        console.print("interrupted: everything committed stays; run the same command to go on")
    elif tally.limit is not None:
        flag = f"--{tally.limit.replace('_', '-')}"
        spent = f"{tally.weight:,} weight, {duration(tally.seconds)}"
        stop = f"stopped at {flag} ({spent}): what was read is committed; run the same command to go on"
        console.print(stop)
    elif not stopped and tally.requests == 0 and not tally.users_elsewhere and not tally.users_left_failed:
        nothing = (
            "nothing to read: every user known or named has been read for this window (`users add` makes more known)"
        )
        console.print(nothing)
    for source, users in tally.users_elsewhere.items():
        left = f"{users:,} users wait for what {source} has of them and were left alone"
        console.print(f"{left}: `run --only truncated --source {source}`")
    if tally.users_left_failed:
        failed = (
            f"{tally.users_left_failed:,} users failed: `vigil-backfill status` tells why, `retry` tries them again"
        )
        console.print(failed)
