"""The commands as users type them: what they print, refuse, and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.backfill import ask, everybody, small, tell
from tests.kit.command import environment, vigil
from tests.kit.loop import run
from vigil.simulator import FaultPlan, Simulator, UserFault

USER = "0x" + "ab" * 20


def test_run_status_and_users_tell_the_same_story(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(10, 31)) as healthy:
            victim = everybody(healthy)[0]
        async with Simulator(small(10, 31, faults=FaultPlan(per_user={victim: UserFault("500")}))) as exchange:
            env = environment(migrated_url, exchange, VIGIL_REQUEST_TRIES=2)
            listed = "\n".join(
                [*everybody(exchange), "# a comment", "", everybody(exchange)[1].upper().replace("0X", "0x")]
            )
            added = await vigil("users", "add", "--users-file", "-", env=env, stdin=listed.encode())
            assert added.out == "10 users added, 0 known already\n"
            outcome = await vigil("run", "--concurrency", "4", env=env)
            assert outcome.code == 3, outcome.err
            assert "9 users completed" in outcome.err
            status = json.loads((await vigil("status", "--json", env=env)).out)
            rows = await ask(migrated_url, "SELECT count(*) FROM fills")
            assert (status["users"], status["completed"], status["failed"], status["fills"]) == (10, 9, 1, rows)
            assert status["errors"][0]["user_address"] == victim
            assert "failed         1" in (await vigil("status", env=env)).out
            failed = await vigil("users", "list", "--state", "failed", "--json", env=env)
            assert json.loads(failed.out)["last_error"] == "The exchange answers with status 500."

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--user", "0x12"], "'0x12' is not a user's address"),
        (["run", "--users-file", "missing.txt"], "missing.txt can't be read: No such file or directory"),
        (["run", "--start", "yesterday"], "--start 'yesterday' is neither an ISO date nor milliseconds"),
        (["run", "--start", "2025-01-01", "--end", "2024-01-01"], "--start 2025-01-01 is not before --end 2024-01-01"),
        (["run", "--worker-id", "4", "--total-workers", "4"], "--worker-id 4 is not one of 0 to 3"),
        (["run", "--concurrency", "0"], "VIGIL_CONCURRENCY"),
        (["run", "--no-such-flag"], "No such option"),
        (["users", "add"], "No users given"),
    ],
)
def test_bad_input_is_refused_with_2_before_anything_is_fetched(
    migrated_url: str, arguments: list[str], said: str
) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 32)) as exchange:
            outcome = await vigil(*arguments, env=environment(migrated_url, exchange))
            assert outcome.code == 2
            assert said in outcome.err
            assert "Traceback" not in outcome.err
            assert exchange.stats.requests == 0

    run(scenario())


def test_a_bad_line_of_a_users_file_is_named(migrated_url: str, tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text(f"{USER}\n\n0xnonsense\n")
    outcome = run(vigil("run", "--users-file", str(file), env=environment(migrated_url)))
    assert outcome.code == 2
    assert f"{file}, line 3: '0xnonsense' is not a user's address" in outcome.err


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgresql://nobody:hunter2@127.0.0.1:9/none", 5, "The database can't be reached"),
        ("mysql://nobody:hunter2@127.0.0.1/none", 2, "VIGIL_DATABASE_URL: must begin with postgresql://"),
    ],
)
def test_a_database_that_can_not_be_used_is_one_sentence_without_its_password(url: str, code: int, said: str) -> None:
    outcome = run(vigil("status", env=environment(url)))
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert "hunter2" not in outcome.err


def test_a_fills_table_of_somebody_else_is_refused(database_url: str) -> None:
    async def scenario() -> None:
        await tell(database_url, "CREATE TABLE fills (user_address text, time bigint, tid bigint UNIQUE)")
        outcome = await vigil("run", "--user", USER, env=environment(database_url))
        assert outcome.code == 2
        assert "The table `fills` in this database is not vigil's" in outcome.err
        assert "time is bigint, expected timestamp with time zone" in outcome.err

    run(scenario())


def test_the_progress_table_of_the_original_plan_is_taken_over(database_url: str) -> None:
    async def scenario() -> None:
        await tell(
            database_url,
            "CREATE TABLE backfill_progress (user_address TEXT PRIMARY KEY, started_at TIMESTAMPTZ,"
            " completed_at TIMESTAMPTZ, completed BOOLEAN DEFAULT false, fills_count INT DEFAULT 0,"
            " oldest_fill_time BIGINT)",
        )
        await tell(database_url, "CREATE INDEX idx_backfill_completed ON backfill_progress (completed)")
        async with Simulator(small(2, 33)) as exchange:
            done, todo = everybody(exchange)
            insert = "INSERT INTO backfill_progress (user_address, completed, fills_count) VALUES ($1, $2, $3)"
            await tell(database_url, insert, done, True, 7)
            await tell(database_url, insert, todo, False, 0)
            outcome = await vigil("run", env=environment(database_url, exchange))
            assert outcome.code == 0, outcome.err
            assert exchange.stats.requests == 1
            assert (
                await ask(database_url, "SELECT fills_count FROM backfill_progress WHERE user_address = $1", done) == 7
            )

    run(scenario())


def test_secrets_in_the_api_url_are_not_shown(migrated_url: str) -> None:
    env = environment(migrated_url, VIGIL_API_URL="http://me:hunter2@127.0.0.1:9/info?key=hunter2")
    outcome = run(vigil("run", "--user", USER, env=env))
    assert outcome.code == 5
    assert "127.0.0.1:9/info" in outcome.err
    assert "hunter2" not in outcome.err + outcome.out


def test_migrate_prepares_an_empty_database_once_and_status_asks_for_it(database_url: str) -> None:
    async def scenario() -> None:
        env = environment(database_url)
        before = await vigil("status", env=env)
        assert before.code == 2
        assert "no backfill in it yet" in before.err
        assert "applied 001 fills" in (await vigil("migrate", env=env)).out
        assert "up to date" in (await vigil("migrate", env=env)).out
        assert (await vigil("status", env=env)).code == 0

    run(scenario())
