"""`vigil-backfill export` as people type it: data on stdout, talk on stderr, exit codes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import asyncpg
import pyarrow.parquet as pq
import pytest

from tests.kit.backfill import ask, backfill, everybody, small, tell, until
from tests.kit.command import Outcome, environment, finish, start, stopped, vigil
from tests.kit.loop import run
from vigil.simulator import Simulator

USER = "0x" + "ab" * 20
INSERT = (
    "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
    " SELECT $1, timestamptz '2024-03-01' + n * interval '1 hour', 'BTC', 'B', 1.5, 2, n, n"
    " FROM generate_series(1, $2) AS n"
)


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_backfilled_is_what_is_exported(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Simulator(small(12, 31)) as exchange:
            await backfill(exchange, migrated_url)
            users = everybody(exchange)
        out = tmp_path / "fills"
        outcome = await vigil("export", str(out), env=environment(migrated_url))
        assert outcome.code == 0, outcome.err
        assert outcome.out == ""
        rows = await ask(migrated_url, "SELECT count(*) FROM fills")
        assert f"{rows:,} rows" in outcome.err
        assert pq.read_table(out).num_rows == rows
        manifest = json.loads((out / "_export.json").read_text())
        told = manifest["completeness"]
        assert sum(told["users_with_rows"].values()) + sum(told["users_without_rows"].values()) == len(users)
        judged = await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE verdict = 'complete'")
        assert told["users_with_rows"].get("complete", 0) == judged > 0

    run(scenario())


def test_csv_goes_to_standard_output_and_talk_to_standard_error(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, INSERT, USER, 3)
        env = environment(migrated_url)
        outcome = await vigil("export", "-", "--user", USER.upper().replace("0X", "0x"), env=env)
        header, first, *rest = outcome.out.splitlines()
        assert outcome.code == 0, outcome.err
        assert header.startswith("user_address,time,coin,")
        assert first.startswith(f"{USER},2024-03-01 01:00:00+00,BTC,B,1.5,2,")
        assert len(rest) == 2
        assert "3 rows of 1 users" in outcome.err
        assert "1 not known" in outcome.err
        listed = await vigil(
            "export", "-", "--users-file", "-", "--end", "2024-03-01T02:00", env=env, stdin=USER.encode()
        )
        assert listed.out.splitlines() == [header, first]

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["out", "--start", "2024-02-01", "--end", "2024-01-01"], "is not before"),
        (["out", "--user", USER], f"{USER} is not known here"),
        (["-", "--partition", "user"], "one stream"),
        (["out.csv", "--format", "parquet"], "does not look like parquet"),
        (["--format", "csv", "."], "not empty"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_2_and_nothing_is_written(
    migrated_url: str, tmp_path: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    outcome = run(vigil("export", *arguments, env=environment(migrated_url)))
    assert outcome.code == 2, outcome.err
    assert told in outcome.err
    assert outcome.out == ""
    assert entries(tmp_path) == ["file"]


def test_without_pyarrow_parquet_is_one_sentence_and_csv_works(migrated_url: str, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')")
    env = environment(migrated_url) | {"PYTHONPATH": str(tmp_path)}
    outcome = run(vigil("export", str(tmp_path / "out"), env=env))
    assert outcome.code == 2
    assert "pip install 'vigil-backfill[parquet]'" in outcome.err
    assert not (tmp_path / "out").exists()
    assert run(vigil("export", "-", env=env)).code == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_code_and_leaves_nothing(
    migrated_url: str, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    async def scenario() -> None:
        await tell(migrated_url, INSERT, USER, 50)
        holder = await asyncpg.connect(migrated_url)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE fills IN ACCESS EXCLUSIVE MODE")
                process = await start("export", str(tmp_path / "out"), env=environment(migrated_url))
                await until(migrated_url, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
                assert entries(tmp_path / "out")
                outcome = await stopped(process, signum)
        finally:
            await holder.close()
        assert outcome.code == code, outcome.err
        assert "interrupted" in outcome.err
        assert not entries(tmp_path)

    run(scenario())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(migrated_url: str, tmp_path: Path) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from vigil.__main__ import main; sys.argv[0] = 'vigil-backfill'; main()"
    )

    async def export(*arguments: str) -> Outcome:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", limited, "export", *arguments),
            env=environment(migrated_url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return await finish(process)

    async def scenario() -> None:
        await tell(migrated_url, INSERT, USER, 3000)
        for target in ("out.parquet", "out.csv", "out"):
            outcome = await export(str(tmp_path / target), *([] if "." in target else ["--format", "csv"]))
            assert outcome.code == 1, outcome.err
            assert "can't be written" in outcome.err
            assert "File too large" in outcome.err
            assert "Traceback" not in outcome.err
            assert not entries(tmp_path)

    run(scenario())


def test_standard_output_that_is_full_or_gone_is_no_traceback(migrated_url: str) -> None:
    async def into(shell: str) -> Outcome:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", shell),
            env=environment(migrated_url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return await finish(process)

    async def scenario() -> None:
        await tell(migrated_url, INSERT, USER, 3000)
        command = f"{sys.executable} -m vigil export -"
        full = await into(f"{command} > /dev/full")
        assert full.code == 1
        assert "can't be written to standard output: No space left on device" in full.err
        gone = await into(f"{{ {command}; echo $? >&2; }} | head -n 1")
        assert gone.out.startswith("user_address,")
        assert gone.err == "0\n"

    run(scenario())
