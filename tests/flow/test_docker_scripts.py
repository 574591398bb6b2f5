"""The image's scripts, run as the image would, but without one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.kit.backfill import small
from tests.kit.command import Outcome, environment, finish
from tests.kit.database import REPOSITORY
from tests.kit.loop import run
from vigil.simulator import Simulator

SCRIPTS = REPOSITORY / "docker"


async def started(script: str, *arguments: str, env: dict[str, str], path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("/bin/sh", str(SCRIPTS / script), *arguments),
        env={**env, "PATH": f"{path}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def stand_in(directory: Path, text: str) -> None:
    """A `vigil-backfill` that does what is said here."""
    path = directory / "vigil-backfill"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("code", "told"), [(0, 0), (1, 1), (2, 0), (3, 0), (5, 5), (137, 137)])
def test_a_worker_is_started_again_only_where_that_helps(tmp_path: Path, code: int, told: int) -> None:
    stand_in(tmp_path, f'echo "$@"; exit {code}')

    async def scenario() -> Outcome:
        return await finish(await started("worker.sh", "run", "--limit", "5", env={}, path=tmp_path))

    outcome = run(scenario())
    assert (outcome.code, outcome.out) == (told, "run --limit 5\n")
    assert outcome.err == ("" if code == told else f"exit code {code}: not started again (docs/exit-codes.md)\n")


def test_a_worker_that_is_stopped_may_commit_what_it_has_and_ends_with_its_code(tmp_path: Path) -> None:
    stand_in(tmp_path, "trap 'kill $!; echo committed; exit 143' TERM; sleep 60 & echo up; wait")

    async def scenario() -> Outcome:
        process = await started("worker.sh", "run", env={}, path=tmp_path)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        return await finish(process)

    outcome = run(scenario())
    assert (outcome.code, outcome.out) == (143, "committed\n")


def test_the_demo_ends_with_the_table_equal_to_the_truth(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(15, 8)) as exchange:
            env = environment(migrated_url, exchange)
            outcome = await finish(await started("demo.sh", env=env, path=Path(sys.executable).parent))
            assert outcome.code == 0, outcome.err
            assert "15 users added" in outcome.out
            assert "missing 0, extra 0" in outcome.out

    run(scenario())
