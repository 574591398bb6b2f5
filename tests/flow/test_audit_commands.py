"""`verify`, `repair`, `explain` and `status` as people run them, and a repair that is killed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kit.backfill import PERIOD_SECONDS, WINDOW, ask, backfill, compared, everybody, settings_for, small, tell
from tests.kit.command import environment, finish, start, stopped, vigil
from tests.kit.loop import run
from vigil.db import session
from vigil.pipeline import Run
from vigil.simulator import FaultPlan, Simulator, SimulatorConfig, UserFault
from vigil.story import read_story
from vigil.story import tell as tell_story


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_verify_tells_what_differs_repair_mends_it_and_verify_agrees(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(20, 61, scale=0.05, lengths={0: 400, 1: 400})) as exchange:
            await backfill(exchange, migrated_url)
            lacking, changed = everybody(exchange)[:2]
            env = environment(migrated_url, exchange)
            clean = await vigil("verify", "--sample", "300", env=env)
            assert clean.code == 0, clean.err
            assert "windows differ: all there are within reach" in clean.out
            assert f"=    {lacking}  0 of 1 windows differ" in clean.out

            await tell(migrated_url, "DELETE FROM fills WHERE user_address = $1 AND tid % 5 = 0", lacking)
            await tell(migrated_url, "UPDATE fills SET px = px + 1 WHERE user_address = $1 AND tid % 5 = 1", changed)
            found = await vigil("verify", "--all", env=env)
            assert found.code == 4, found.err
            assert f"-    {lacking}  1 of 1 windows differ" in found.out
            assert f"*    {changed}  1 of 1 windows differ" in found.out
            assert "differ in px" in found.out
            assert "2 of 20 windows differ: all there are within reach" in found.out

            told = await vigil("verify", "--sample", "10", "--seed", "3", "--json", env=env)
            *users, last = lines_of(told.out)
            summary = last["summary"]
            assert len(users) == summary["windows"] == 10
            assert summary["windows_known"] == summary["users_known"] == 20
            assert summary["exit_code"] == told.code
            assert {user["signs"] for user in users} <= {"=", "-", "*"}
            assert summary["confidence"].startswith(f"{summary['differing_windows']} of 10 windows differ: below ")

            mended = await vigil("repair", "--all", "--json", env=env)
            assert mended.code == 0, mended.err
            *users, last = lines_of(mended.out)
            by_user = {user["user"]: user for user in users}
            assert by_user[lacking]["added"] > 0
            assert by_user[changed]["corrected"] > 0
            assert last["summary"]["added"] == by_user[lacking]["added"]
            assert (await vigil("verify", "--all", env=env)).code == 0
            truth = await compared(exchange, migrated_url)
            assert truth.equal, truth.examples

            both = await vigil("verify", "--all", "--suspect", env=env)
            assert (both.code, both.out) == (2, "")
            assert "exclude one another" in both.err

    run(scenario())


def test_repair_killed_at_any_moment_loses_nothing_and_counts_nothing_twice(migrated_url: str) -> None:
    rng = random.Random(7)

    async def scenario() -> None:
        config = small(30, 62, lengths=dict.fromkeys(range(0, 30, 3), 1_000), period_seconds=0.5)
        async with Simulator(config) as exchange:
            await backfill(exchange, migrated_url)
            await tell(migrated_url, "DELETE FROM fills WHERE tid % 4 = 0")
            completed = "SELECT string_agg(completed_at::text, ',' ORDER BY user_address) FROM backfill_progress"
            read_at = await ask(migrated_url, completed)
            env = environment(migrated_url, exchange)
            kills_in_work = 0
            for _ in range(2):
                asked = exchange.stats.requests + rng.randint(3, 12)
                process = await start("repair", "--all", env=env)
                while exchange.stats.requests < asked:  # noqa: ASYNC110  another process asks
                    await asyncio.sleep(0.005)
                await asyncio.sleep(rng.uniform(0, 0.05))
                await stopped(process, signal.SIGKILL)
                kills_in_work += (
                    await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE claimed_by > 0") > 0
                )
            assert kills_in_work
            last = await finish(await start("repair", "--all", env=env))
            assert last.code == 0, last.out + last.err
            found = await compared(exchange, migrated_url)  # fills_count as well
            assert found.equal, found.examples
            states = "SELECT string_agg(DISTINCT state::text || (judged_at IS NULL), ',') FROM backfill_progress"
            assert await ask(migrated_url, states) == "completedfalse"
            differing = sum(
                one != other
                for one, other in zip(read_at.split(","), (await ask(migrated_url, completed)).split(","), strict=True)
            )
            assert differing <= 2 * 8  # only of those whose commit was the last thing that a killed repair did

    run(scenario())


def test_a_user_that_a_killed_repair_left_is_finished_by_the_next_run_with_one_request(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(2, 63, lengths={0: 300, 1: 300})) as exchange:
            await backfill(exchange, migrated_url)
            left = everybody(exchange)[0]
            await tell(  # as audit_claim.sql and a burial leave it
                migrated_url,
                "UPDATE backfill_progress SET completed = false, cursor_ms = window_end_ms - 1, judged_at = NULL"
                " WHERE user_address = $1",
                left,
            )
            again = await backfill(exchange, migrated_url)
            assert (again.requests, again.users_done, again.inserted) == (1, 1, 0)
            assert await ask(
                migrated_url, "SELECT bool_and(completed AND judged_at IS NOT NULL) FROM backfill_progress"
            )

    run(scenario())


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_repair_with_every_user_given_back(
    migrated_url: str, signum: signal.Signals, code: int
) -> None:
    async def scenario() -> None:
        async with Simulator(small(40, 64, period_seconds=1.0)) as exchange:
            await backfill(exchange, migrated_url)
            columns = "SELECT string_agg((completed, completed_at, cursor_ms)::text, ',' ORDER BY user_address)"
            before = await ask(migrated_url, f"{columns} FROM backfill_progress")
            asked = exchange.stats.requests
            process = await start("repair", "--all", env=environment(migrated_url, exchange))
            while exchange.stats.requests < asked + 10:  # noqa: ASYNC110  another process asks
                await asyncio.sleep(0.005)
            outcome = await stopped(process, signum)
            assert outcome.code == code, outcome.err
            assert await ask(migrated_url, f"{columns} FROM backfill_progress") == before
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_workers") == 0

    run(scenario())


def test_explain_tells_each_kind_of_story(migrated_url: str, real_fills: Path) -> None:
    async def scenario() -> None:
        config = SimulatorConfig(
            users=4,
            seed=65,
            lengths={0: 300, 1: 10_800, 2: 0, 3: 100},
            replay=real_fills,
            replay_shift_end_ms=WINDOW.end_ms,
            period_seconds=PERIOD_SECONDS,
        )
        async with Simulator(config) as healthy:
            _, truncated, empty, failing, *_ = everybody(healthy)
            twap = next(user for user, one in healthy.recording.users.items() if one.twap_slices.rows)
        config = SimulatorConfig(
            **{**config.__dict__, "faults": FaultPlan(per_user={failing: UserFault("500")})},
        )
        async with Simulator(config) as exchange:
            settings = settings_for(exchange, request_tries=2)
            await Run(settings, migrated_url, WINDOW, users=everybody(exchange), volume_check=True).execute()
            pending, unknown = "0x" + "aa" * 20, "0x" + "bb" * 20
            await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ($1)", pending)
            env = environment(migrated_url, exchange)

            async def told(user: str) -> str:
                async with session(migrated_url) as connection:
                    found = await read_story(connection, user)
                assert found is not None
                return "\n".join(tell_story(found))

            shown = await vigil("explain", truncated.upper().replace("0X", "0x"), env=env)
            assert (shown.code, shown.out.rstrip("\n")) == (0, await told(truncated))

            story = await told(truncated)
            assert "completed: window [2023-01-01, 2025-07-27)" in story
            assert "verdict: truncated." in story
            assert "causes: retention" in story
            assert "of the lifetime volume of" in story
            assert f"run --only truncated --source NAME --user {truncated}" in story

            story = await told(empty)
            assert "fills: none held" in story
            assert "verdict: empty." in story
            assert "an agent wallet answers empty" in story

            story = await told(failing)
            assert "failed: known, not yet read" in story or "failed: window" in story
            assert "1 failed tries, the last: The exchange answers with status 500." in story
            assert f"vigil-backfill retry --user {failing}" in story

            story = await told(twap)
            assert "TWAP slices: read, 2,000 rows" in story

            complete = await ask(
                migrated_url,
                "SELECT user_address FROM backfill_verdicts WHERE verdict = 'complete'"
                " AND (evidence ->> 'rows')::int >= 3 AND user_address IN"
                " (SELECT user_address FROM backfill_progress WHERE verdict = 'complete') LIMIT 1",
            )
            story = await told(complete)
            assert "verdict: complete." in story
            assert "starts at 0 and" in story
            assert f"verify --all --user {complete}" in story

            coin = (
                "SELECT coin FROM backfill_verdicts WHERE user_address = $1 AND (evidence ->> 'chained')::boolean"
                " AND (evidence ->> 'rows')::int >= 3 LIMIT 1"
            )
            await tell(
                migrated_url,
                "DELETE FROM fills WHERE user_address = $1 AND (time, seq) IN"
                " (SELECT time, seq FROM fills WHERE user_address = $1"
                f" AND coin = ({coin}) ORDER BY time, seq OFFSET 1 LIMIT 1)",
                complete,
            )
            await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL WHERE user_address = $1", complete)
            assert "verdict: not judged yet" in await told(complete)
            await backfill(exchange, migrated_url, users=[complete])
            story = await told(complete)
            assert "verdict: gap." in story
            assert "missing at least" in story
            assert "first between" in story
            assert f"vigil-backfill repair --user {complete}" in story

            story = await told(pending)
            assert "pending: known, not yet read" in story
            assert f"vigil-backfill run --user {pending}" in story

            stranger = await vigil("explain", unknown, env=env)
            assert (stranger.code, stranger.out) == (2, "")
            assert f"{unknown} is not known here" in stranger.err
            assert (await vigil("explain", "0x12", env=env)).code == 2

            outcome = await vigil("explain", truncated, "--json", env=env)
            known = json.loads(outcome.out)
            assert known["verdict"] == "truncated"
            assert known["rows"] == sum(coin["rows"] for coin in known["coins"])
            assert known["pages"] == -(-known["rows"] // 2000) + 1  # the empty list of TWAP slices is one
            assert (known["slices_read"], known["twap_rows"]) == (True, 0)
            assert known["coins"][0]["evidence"]["rows"] == known["coins"][0]["rows"]
            assert 0 < float(known["volume_share"]) < 1
            assert any("--source" in (one["command"] or "") for one in known["remedies"])

            status = json.loads((await vigil("status", "--json", env=env)).out)
            by_verdict = {row["verdict"]: row for row in status["verdicts"]}
            assert by_verdict["truncated"]["users"] >= 1
            assert by_verdict["empty"]["captured_share"] is None
            assert 0 < float(by_verdict["truncated"]["captured_share"]) < 1
            counted = (
                "SELECT verdict::text, count(*), sum(fills_count) FROM backfill_progress WHERE verdict = $1 GROUP BY 1"
            )
            for verdict, row in by_verdict.items():
                in_table = f"SELECT users || ' ' || fills FROM ({counted}) AS c (v, users, fills)"
                assert f"{row['users']} {row['fills']}" == await ask(migrated_url, in_table, verdict)
            assert status["unjudged"] == 0
            shown = await vigil("status", env=env)
            assert "verdict: truncated" in shown.out
            assert "of the lifetime volume of" in shown.out

    run(scenario())


def test_the_new_commands_have_help() -> None:
    async def scenario() -> None:
        for command in ("verify", "repair", "explain"):
            outcome = await vigil(command, "--help", env=environment("postgresql://unused"))
            assert outcome.code == 0
            assert "Usage:" in outcome.out
            assert "--json" in outcome.out

    run(scenario())
