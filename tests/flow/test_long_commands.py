"""`load`, `verify`, `export` and `maintain` show themselves as `run` does: lines for people, events for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from tests.kit.archives import events_of
from tests.kit.archives import lines_of as archived
from tests.kit.backfill import backfill, everybody, small
from tests.kit.command import environment, vigil
from tests.kit.loop import run
from vigil.cli import with_commands
from vigil.simulator import Simulator


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def here(url: str, *arguments: str) -> Result:
    """The command in this process, which costs no start of another."""
    return CliRunner().invoke(with_commands(), arguments, env=environment(url))


def test_load_export_and_maintain_tell_scripts_how_they_go_and_end(migrated_url: str, tmp_path: Path) -> None:
    archive = tmp_path / "0"
    archive.write_bytes(archived(events_of(60)))
    told = lines_of(here(migrated_url, "load", str(archive), "--json", "--quiet").stdout)
    assert {line["v"] for line in told} == {1}
    assert (told[-1]["event"], told[-1]["rows"]["inserted"], told[-1]["exit_code"]) == ("summary", 60, 0)
    assert told[-1]["files"] == {"total": 1, "done": 1, "known": 0, "failed": {}}

    exported = here(migrated_url, "export", str(tmp_path / "out.csv"), "--json", "--quiet")
    assert exported.stderr == ""
    summary = lines_of(exported.stdout)[-1]
    assert (summary["event"], summary["rows"], summary["exit_code"]) == ("summary", 60, 0)

    tended = here(migrated_url, "maintain", "--json", "--now")
    *steps, last = lines_of(tended.stdout)
    assert steps
    assert {step["event"] for step in steps} <= {"step", "progress"}
    assert (last["event"], last["exit_code"]) == ("summary", tended.exit_code)
    assert here(migrated_url, "maintain", "--quiet").output == ""

    refused = here(migrated_url, "export", "-", "--json")
    assert refused.exit_code != 0
    assert lines_of(refused.stdout)[-1]["event"] == "error"


def test_verify_tells_its_progress_to_people_and_to_scripts(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(30, 61, scale=0.05, latency_seconds=(0.1, 0.1))) as exchange:
            await backfill(exchange, migrated_url)
            env = environment(migrated_url, exchange, VIGIL_PROGRESS_SECONDS=0.05)
            done = await vigil("verify", "--all", "--json", env=env)
            told = lines_of(done.out)
            assert {line["v"] for line in told} == {1}
            users = [line["user"] for line in told if line["event"] == "user"]
            assert sorted(users) == sorted(everybody(exchange))
            progress = [line for line in told if line["event"] == "progress"]
            assert 0 < progress[-1]["requests"] <= exchange.stats.requests
            assert progress[-1]["windows_wanted"] == 30
            assert told[-1]["event"] == "summary"
            assert any(line.startswith("users: ") and "of 30, 0 differ" in line for line in done.err.splitlines())

    run(scenario())
