"""`verify`, `repair`, `explain`: is the table what the exchange has, and what is known of one user."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from vigil.address import normalize_address
from vigil.audit import Audit
from vigil.cli.common import (
    ConcurrencyOption,
    LaneOption,
    UserOption,
    UsersFileOption,
    app,
    database,
    print_line,
    read_users,
    require_schema,
    run_async,
)
from vigil.cli.talk import JsonOption, ProgressOption, QuietOption, Scene, Talk, VerboseOption, watched
from vigil.cli.views import auditing
from vigil.db import session
from vigil.differences import CONFIDENCE, shown_columns
from vigil.display import Progress, Voice
from vigil.errors import EXIT_DONE, UsageError
from vigil.repair import Repair
from vigil.settings import load_settings
from vigil.story import Story, read_story, tell
from vigil.windows import SAMPLE_WINDOWS, WINDOW_ROWS, Account, Choice, Selection, Summary

SampleOption = Annotated[
    int | None,
    typer.Option("--sample", min=1, metavar="N", help=f"Windows drawn at random, of up to {WINDOW_ROWS} rows."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the draw: the same seed and table draw the same windows.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every window there is.")]
SuspectOption = Annotated[
    bool, typer.Option("--suspect", help="Only around recorded gaps, broken links and rows that could not be stored.")
]


@app.command()
def verify(
    sample: SampleOption = None,
    everything: AllOption = False,
    suspect: SuspectOption = False,
    seed: SeedOption = 0,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    concurrency: ConcurrencyOption = None,
    lane: LaneOption = None,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Ask the exchange again and set the table against its answers; changes nothing. Exit code 4: they differ.

    A line a user: `=` equal, `-` the table lacks rows, `+` it has rows that the exchange, though it reaches so far,
    does not serve, `*` rows differ in values, `!` it could not be asked. Without a choice, 300 windows are drawn.

    Examples: `vigil-backfill verify --sample 3000` · `verify --suspect` · `verify --all --user 0x…`
    """
    choose = partial(_choose, sample, everything, suspect, default=Choice.SAMPLE)
    talk = Talk(progress, as_json, quiet, verbose)
    code = _audit(Audit, talk, choose, sample, seed, user, users_file, concurrency, lane, _describe_verified)
    raise typer.Exit(code)


@app.command()
def repair(
    sample: SampleOption = None,
    everything: AllOption = False,
    suspect: SuspectOption = False,
    seed: SeedOption = 0,
    user: UserOption = None,
    users_file: UsersFileOption = None,
    concurrency: ConcurrencyOption = None,
    lane: LaneOption = None,
    progress: ProgressOption = Progress.AUTO,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fetch what is missing and nothing else: where something is suspect, or else where `verify` would look.

    Exit code 4: differences are left, because the exchange no longer has the rows or the table has more.

    Examples: `vigil-backfill repair` · `repair --all --user 0x…`
    """
    choose = partial(_choose, sample, everything, suspect, default=Choice.SUSPECT)
    talk = Talk(progress, as_json, quiet, verbose)
    code = _audit(Repair, talk, choose, sample, seed, user, users_file, concurrency, lane, _describe_repaired)
    raise typer.Exit(code)


@app.command()
def explain(
    user: Annotated[str, typer.Argument(metavar="0x…", help="The user's address.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell one user's story: what was read and is held, the verdict and its evidence, and what would change it.

    Examples: `vigil-backfill explain 0x…` · `explain 0x… --json | jq .verdict`
    """
    settings = load_settings()
    address = normalize_address(user)
    with database(settings) as dsn:
        story = run_async(_read_story(dsn, address))
    if story is None:
        raise UsageError(f"{address} is not known here.", hint="`vigil-backfill users add` makes users known.")
    if as_json:
        print_line(json.dumps(story.as_dict(), default=_plain))
    else:
        for line in tell(story):
            print_line(line)


def _choose(sample: int | None, everything: bool, suspect: bool, *, default: Choice) -> Choice:
    chosen = {Choice.SAMPLE: sample is not None, Choice.ALL: everything, Choice.SUSPECT: suspect}
    named = [choice for choice, is_named in chosen.items() if is_named]
    if len(named) > 1:
        raise UsageError("--sample, --all and --suspect exclude one another.")
    return named[0] if named else default


def _audit(
    kind: type[Audit],
    talk: Talk,
    choose: Callable[[], Choice],
    sample: int | None,
    seed: int,
    user: list[str] | None,
    users_file: str | None,
    concurrency: int | None,
    lane: list[str] | None,
    describe: Callable[[Account], str],
) -> int:
    """Run the audit, telling each user as it is done; returns the exit code."""
    with talk.heard() as events:
        settings = load_settings(concurrency=concurrency, lane=lane)
        selection = Selection(choose(), sample or SAMPLE_WINDOWS, seed, read_users(user, users_file))
        console = Voice(settings.log_format, quiet=talk.quiet)
        with database(settings) as dsn:
            run_async(_check_schema(dsn))
            return _look(Scene(settings, dsn, console, talk, events), kind, selection, describe)


def _look(scene: Scene, kind: type[Audit], selection: Selection, describe: Callable[[Account], str]) -> int:
    events = scene.events

    def tell_user(account: Account) -> None:
        if events is None:
            print_line(describe(account))
            sys.stdout.flush()  # as they come, to a pipe as well
            return
        events.emit("user", **_account(account))
        if not events.heard:
            raise SystemExit(EXIT_DONE)  # who asked for it has gone

    with scene.talk.showing(scene.settings, scene.console, events) as show:
        job = kind(scene.settings, scene.dsn, selection, tell_user)
        try:
            summary = run_async(watched(job.execute(), show, auditing(job.look, selection)))
        except asyncio.CancelledError:  # the second signal
            summary = job.summary
    if events is not None:
        events.emit("summary", summary=_summary(summary))
    else:
        for line in _describe_summary(summary, repaired=kind is Repair):
            print_line(line)
    scene.console.print(f"{summary.requests:,} requests, {summary.weight:,} weight")
    return summary.exit_code


def _account(account: Account) -> dict[str, Any]:
    gaps = [asdict(gap) for gap in account.gaps_left]
    fields = {name: getattr(account, name) for name in Account.__slots__}
    return {"user": account.user, "signs": account.signs, **fields, "gaps_left": gaps}


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        **asdict(summary),
        "bound": summary.bound,
        "confidence_level": CONFIDENCE,
        "confidence": summary.confidence,
        "exit_code": summary.exit_code,
    }


def _describe_verified(account: Account) -> str:
    if account.error is not None and not account.windows:
        return f"{account.signs:<4} {account.user}  {account.error}"
    parts = [f"{account.differing_windows:,} of {account.windows:,} windows differ", f"{account.equal:,} rows equal"]
    parts += [
        text
        for count, text in (
            (account.missing, f"{account.missing:,} lacking"),
            (account.extra, f"{account.extra:,} not served{_origin(account)}"),
            (account.differing, f"{account.differing:,} differ in {shown_columns(account.columns)}"),
            (account.rejected, f"{account.rejected:,} known to be rejected"),
            (account.out_of_reach, f"{account.out_of_reach:,} out of the exchange's reach"),
            (account.error, f"not all: {account.error}"),
        )
        if count
    ]
    return f"{account.signs:<4} {account.user}  {', '.join(parts)}"


def _origin(account: Account) -> str:
    """Where rows that the exchange does not serve may be from, as far as that is known."""
    return f" ({account.extra_from_archives:,} known from archives)" if account.extra_from_archives else ""


def _describe_repaired(account: Account) -> str:
    done = [
        text
        for count, text in (
            (account.added, f"{account.added:,} rows added"),
            (account.corrected, f"{account.corrected:,} corrected"),
            (account.refused, f"{account.refused:,} can't be stored (rejected_fills)"),
            (account.gaps_closed, f"{account.gaps_closed:,} gaps closed"),
            (account.extra, f"{account.extra:,} not served{_origin(account)}: left alone"),
            (len(account.gaps_left), _tell_gaps_left(account)),
            (account.error, account.error),
        )
        if count
    ]
    return f"{account.signs:<4} {account.user}  {', '.join(map(str, done)) or 'nothing missing'}"


def _tell_gaps_left(account: Account) -> str:
    kinds = sorted({str(gap.kind) for gap in account.gaps_left})
    return f"{len(account.gaps_left):,} gaps stay ({', '.join(kinds)}): the exchange no longer serves what was there"


def _describe_summary(summary: Summary, *, repaired: bool) -> list[str]:
    if repaired:
        done = f"{summary.users:,} users looked at: {summary.added:,} rows added, {summary.corrected:,} corrected"
        left = (
            f"{summary.extra:,} rows not served, {summary.gaps_left:,} gaps and {summary.refused:,} refused rows left"
        )
        return [f"{done}, {summary.gaps_closed:,} gaps closed; {left}"]
    population = (
        f"windows: {summary.windows_known:,} of up to {WINDOW_ROWS:,} rows make up what was read of"
        f" {summary.users_known:,} users; {summary.unreachable_windows:,} of those asked for are out of reach by now"
    )
    return [summary.confidence, population]


async def _check_schema(dsn: str) -> None:
    async with session(dsn) as connection:
        await require_schema(connection)


async def _read_story(dsn: str, user: str) -> Story | None:
    async with session(dsn) as connection:
        await require_schema(connection)
        return await read_story(connection, user)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
