"""How a run shows itself: a block on a terminal, lines elsewhere, JSON lines for scripts."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kit.backfill import ask, everybody, small
from tests.kit.command import environment, finish, start, vigil
from tests.kit.loop import run
from vigil.simulator import FaultPlan, Simulator
from vigil.views import PACE_SECONDS, Pace


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def named(exchange: Simulator) -> bytes:
    return "\n".join(everybody(exchange)).encode()


def test_json_lines_tell_every_user_and_add_up(migrated_url: str) -> None:
    async def scenario() -> None:
        plan = FaultPlan.parse(["502=0.2"], seed=1)
        async with Simulator(small(30, 7, faults=plan, latency_seconds=(0.01, 0.02))) as exchange:
            env = environment(migrated_url, exchange, VIGIL_PROGRESS_SECONDS=0.05)
            done = await vigil("run", "--json", "--quiet", "--users-file", "-", env=env, stdin=named(exchange))
            assert (done.code, done.err) == (0, "")
            told = lines_of(done.out)
            assert {line["v"] for line in told} == {1}
            users = [line for line in told if line["event"] == "user_done" and line["list"] == "fills"]
            assert sorted(line["user"] for line in users) == sorted(everybody(exchange))
            assert all(line["error"] is None and line["pages"] > 0 for line in users)
            assert any(line["event"] == "progress" for line in told)
            summary = told[-1]
            assert (summary["event"], summary["exit_code"]) == ("summary", 0)
            fills = summary["fills"]
            counted = ("inserted", "updated", "already_there", "refused")
            assert fills["received"] == sum(fills[name] for name in counted) > 0
            assert summary["requests"] == exchange.stats.requests
            assert summary["users"] == {"total": 30, "done": 30, "failed": 0, "reading": 0, "left": 0}
            assert summary["faults"]["error_status"] == exchange.stats.faults["502"] > 0
            assert [lane["open"] for lane in summary["lanes"]] == [True]

    run(scenario())


def test_a_command_that_fails_says_so_in_its_last_line(migrated_url: str) -> None:
    async def scenario() -> None:
        env = environment(migrated_url, VIGIL_API_URL="http://127.0.0.1:9/info")
        failed = await vigil("run", "--json", "--user", "0x" + "1" * 40, env=env)
        assert failed.code == 5
        error = lines_of(failed.out)[-1]
        assert (error["event"], error["exit_code"]) == ("error", 5)
        assert error["message"] in failed.err
        refused = await vigil("run", "--json", "--start", "yesterday", env=env)
        assert lines_of(refused.out)[-1]["exit_code"] == refused.code == 2

    run(scenario())


def test_an_interrupted_run_sums_up_too(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 7, latency_seconds=(0.2, 0.2))) as exchange:
            env = environment(migrated_url, exchange)
            process = await start("run", "--json", "--users-file", "-", env=env, stdin=named(exchange))
            assert process.stdout is not None
            first = json.loads(await process.stdout.readline())
            process.send_signal(signal.SIGTERM)
            ended = await finish(process)
            summary = lines_of(ended.out)[-1]
            assert (ended.code, summary["event"], summary["exit_code"]) == (143, "summary", 143)
            assert first["event"] == "user_done"

    run(scenario())


def test_a_reader_that_goes_away_ends_the_lines_and_not_the_run(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(20, 7)) as exchange:
            env = environment(migrated_url, exchange)
            read, write = os.pipe()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vigil", "run", "--json", "--users-file", "-",
                env=env, stdin=asyncio.subprocess.PIPE, stdout=write, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            os.close(write)
            os.close(read)
            _, err = await process.communicate(named(exchange))
            assert process.returncode == 0, err.decode()

    run(scenario())


def test_sigusr1_prints_the_state_and_the_run_goes_on(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 7, latency_seconds=(0.1, 0.1))) as exchange:
            env = environment(migrated_url, exchange)
            flags = ("--progress", "none", "--json", "--users-file", "-")
            process = await start("run", *flags, env=env, stdin=named(exchange))
            assert process.stdout is not None
            await process.stdout.readline()
            process.send_signal(signal.SIGUSR1)
            ended = await finish(process)
            assert ended.code == 0
            assert "being read; fills:" in ended.err

    run(scenario())


@pytest.mark.parametrize("colour", [True, False])
def test_on_a_terminal_a_block_is_redrawn_and_the_summary_stays(migrated_url: str, colour: bool) -> None:
    async def scenario() -> None:
        async with Simulator(small(40, 7, latency_seconds=(0.05, 0.1))) as exchange:
            env = environment(migrated_url, exchange) | {"TERM": "xterm-256color", "COLUMNS": "100"}
            env.pop("NO_COLOR", None)
            env |= {} if colour else {"NO_COLOR": "1"}
            parent, child = pty.openpty()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vigil", "run", "--users-file", "-",
                env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=child,
            )  # fmt: skip
            os.close(child)
            seen = asyncio.create_task(asyncio.to_thread(read_all, parent))
            await process.communicate(named(exchange))
            screen = (await seen).decode()
            assert process.returncode == 0, screen
            for name in ("users", "fills", "weight", "queue", "left"):
                assert name in screen
            assert "\x1b[2K" in screen, "the block is redrawn"
            assert "40 users completed" in screen.split("\x1b[2K")[-1]
            assert ("\x1b[38;" in screen) is colour

    run(scenario())


def read_all(terminal: int) -> bytes:
    said = b""
    try:
        while piece := os.read(terminal, 65_536):
            said += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(terminal)
    return said


def test_off_a_terminal_a_plain_line_comes_now_and_then(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 7, latency_seconds=(0.1, 0.1))) as exchange:
            env = environment(migrated_url, exchange, VIGIL_PROGRESS_SECONDS=0.1)
            done = await vigil("run", "--users-file", "-", env=env, stdin=named(exchange))
            states = [line for line in done.err.splitlines() if line.startswith("users: ")]
            assert states
            assert "\x1b" not in done.err
            assert done.out == ""

    run(scenario())


def test_rows_a_second_are_told_however_far_apart_the_lines_are() -> None:
    """A timer is always a little late, so that lines every 30 s are a little more than 30 s apart."""
    for apart in (0.25, 7.0, PACE_SECONDS + 0.004, 10 * PACE_SECONDS):
        pace = Pace()
        told = [pace(i * apart, round(i * apart * 300)) for i in range(50)]
        assert told[0] == 0
        assert all(abs(rate - 300) < 5 for rate in told[1:])


def test_sigusr1_ends_no_command_at_whatever_moment_it_comes(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(10, 7)) as exchange:
            env = environment(migrated_url, exchange, VIGIL_MAINTAIN=1)
            process = await start("run", "--users-file", "-", env=env, stdin=named(exchange))
            while not handles(process.pid, signal.SIGUSR1):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.01)
            ending = asyncio.create_task(finish(process))
            while not ending.done():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGUSR1)  # its own method could take the exit code away
                await asyncio.sleep(0.01)
            assert ending.result().code == 0, ending.result().err

    run(scenario())


def handles(pid: int, signum: signal.Signals) -> bool:
    """Whether the process has got as far as to handle that signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text("ascii"))
    return caught is not None and bool(int(caught[1], 16) >> (signum - 1) & 1)


@pytest.mark.parametrize("redirected", ["--json >/dev/full", "--json >&-", "2>/dev/full", "2>&-"])
def test_output_that_goes_nowhere_ends_the_talk_and_not_the_run(migrated_url: str, redirected: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(20, 7)) as exchange:
            process = await asyncio.create_subprocess_shell(
                f"{sys.executable} -m vigil run --users-file - {redirected}",
                env=environment(migrated_url, exchange, VIGIL_PROGRESS_SECONDS=0.05), stdin=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await process.communicate(named(exchange))
            assert process.returncode == 0
            assert await ask(migrated_url, "SELECT bool_and(state = 'completed') FROM backfill_progress")

    run(scenario())


def test_a_run_that_could_not_begin_does_not_say_that_all_is_read(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 7)) as exchange:
            env = environment(migrated_url, exchange, VIGIL_METRICS_PORT=exchange.port)
            refused = await vigil("run", "--user", exchange.population.address(0), env=env)
            assert refused.code == 2
            assert "has been read" not in refused.err

    run(scenario())


def test_a_command_with_nothing_to_do_has_a_summary_too(migrated_url: str) -> None:
    async def scenario() -> None:
        for command in (("retry",), ("run", "--only", "gap")):
            done = await vigil(*command, "--json", env=environment(migrated_url))
            (summary,) = lines_of(done.out)
            assert (done.code, summary["event"], summary["exit_code"]) == (0, "summary", 0)

    run(scenario())


def test_as_json_all_that_a_run_says_is_lines_about_its_worker_users_and_lane(migrated_url: str) -> None:
    async def scenario() -> None:
        plan = FaultPlan.parse(["nan=0.5", "429=0.1"], seed=1)
        async with Simulator(small(30, 7, faults=plan, latency_seconds=(0.02, 0.03))) as exchange:
            env = environment(migrated_url, exchange, VIGIL_PROGRESS_SECONDS=0.05, VIGIL_LOG_FORMAT="json")
            done = await vigil("run", "-v", "--lane", "here", "--users-file", "-", env=env, stdin=named(exchange))
            told = lines_of(done.err)
            assert (done.code, done.out) == (0, "")
            assert all({"time", "level", "event"} <= set(line) for line in told)
            progress = [line for line in told if line["event"] == "progress"]
            assert progress[-1]["users"]["total"] == 30
            assert any(line["event"].startswith("reading [") for line in told)
            assert "30 users completed" in told[-1]["event"]
            strange = [line for line in told if "could not be understood" in line["event"]]
            assert strange
            assert all(line["event"].startswith(line["user"]) and line["lane"] == "here" for line in strange)
            assert len({line["worker"] for line in strange}) == 1
            paused = [line for line in told if "paused for" in line["event"]]
            assert all((line["level"], line["lane"]) == ("debug", "here") for line in paused)
            assert paused

            wrong = await vigil("run", "--start", "yesterday", env=env)
            (error,) = lines_of(wrong.err)
            assert (error["level"], error["exit_code"]) == ("error", wrong.code)

    run(scenario())
