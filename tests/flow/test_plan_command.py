"""`plan` tells within 15 % what then happens, changes nothing, and needs no more than there is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from tests.kit.backfill import WINDOW, ask, backfill, everybody, settings_for, small, tell
from tests.kit.command import environment, vigil
from tests.kit.database import Server
from tests.kit.loop import run
from vigil.cli import with_commands
from vigil.db import session
from vigil.errors import UsageError
from vigil.forecast import rows_weight
from vigil.known import Job, Known, read_known
from vigil.pipeline import Run
from vigil.plan import Basis, Plan, plan
from vigil.settings import Settings
from vigil.simulator import Simulator
from vigil.sources import main_source

DAY_MS = 86_400_000
NO_FILE: dict[str, Any] = {"_env_file": None}
JOB = Job(WINDOW, main_source(Settings(**NO_FILE)))
USER = "0x{:040x}".format


async def known(url: str, job: Job = JOB) -> Known:
    async with session(url) as connection:
        return await read_known(connection, job)


async def planned(url: str, job: Job = JOB) -> Plan:
    return plan(job, await known(url, job))


def cli(*arguments: str, **settings: object) -> Any:
    """What the command prints, in this process."""
    named = settings.pop("VIGIL_DATABASE_URL", None)
    env = {**environment("", None, **settings), "VIGIL_DATABASE_URL": None if named is None else str(named)}
    return CliRunner().invoke(with_commands(), ["plan", *arguments], env=env)


# -- what then happens ------------------------------------------------------------------------


def test_after_some_users_the_rest_is_told_within_15_percent_and_a_user_cut_off_counts_what_is_left(
    migrated_url: str,
) -> None:
    lengths = {i: 690 if i % 12 == 0 else 3_400 if i == 7 else 37 * i % 160 for i in range(240)}

    async def scenario() -> None:
        async with Simulator(small(240, 61, lengths=lengths)) as exchange:
            job = replace(JOB, users=everybody(exchange))
            before = await planned(migrated_url, job)
            assert (before.bases, before.to_read, before.known.users["unread"]) == ((Basis.PRIOR,), 240, 240)

            heavy = [exchange.population.address(7)]
            cut = await Run(settings_for(exchange), migrated_url, WINDOW, users=heavy, max_weight=200).execute()
            assert cut.received == 2000
            done = await backfill(exchange, migrated_url, users=everybody(exchange)[9:], limit=100)
            middle = await planned(migrated_url, job)
            users = middle.known.users
            assert middle.bases == (Basis.READ,)
            assert (users["finished"], users["partly"], users["unread"]) == (100, 1, 139)

            rest = await backfill(exchange, migrated_url)
            assert middle.cost.weight.expected == pytest.approx(rest.weight, rel=0.15)
            assert middle.cost.rows.expected == pytest.approx(rest.received, rel=0.15)
            assert middle.cost.weight.low <= rest.weight <= middle.cost.weight.high
            assert middle.requests.expected == pytest.approx(rest.requests, rel=0.15)

            rows = [len(exchange.truth(user, WINDOW.start_ms, WINDOW.end_ms - 1)) for user in everybody(exchange)]
            more = cut.weight + done.weight + rest.weight - sum(map(rows_weight, rows))
            assert 0 <= more <= 6  # one page edge may repeat all rows of a millisecond, and not only the last
            after = await planned(migrated_url, job)
            assert (after.to_read, after.bases, after.cost.weight.high) == (0, (), 0)

    run(scenario())


# -- what is known of users -------------------------------------------------------------------


def _row(
    number: int,
    start: int | None = None,
    cursor: int | None = None,
    fills: int = 0,
    oldest: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    read = {"window_start_ms": start, "cursor_ms": cursor, "window_end_ms": start and WINDOW.end_ms}
    told = {"user_address": USER(number), "fills_count": fills, "oldest_fill_time": oldest, "completed": False}
    sources = ["hyperliquid"] if start and more.get("completed") else []
    return {**read, **told, "attempts": 0, "urgency": 0, "source": "hyperliquid", "sources": sources, **more}


@pytest.fixture(scope="module")
def crowded_url(database_server: Server) -> Any:
    """Users of every kind."""
    start, end = WINDOW.start_ms, WINDOW.end_ms
    begun = (end - 100 * DAY_MS, 2000, end - 300 * DAY_MS)
    nearly = (end - 10 * DAY_MS, 8000, end - 20 * DAY_MS)
    users: list[dict[str, Any]] = [
        *(_row(i, start, end, 41 * i, completed=True) for i in range(300)),
        _row(1000, start, end, 10**6, completed=True),
        _row(1001, completed=True),  # declared so by hand
        _row(1002, start, *begun),
        _row(1003, start, *begun, urgency=1.0, rows_after_window=500),
        _row(1004, start, *nearly, urgency=1.0, rows_after_window=500),
        _row(1005, failed_at="now", attempts=2),
        _row(1006, failed_at="now", attempts=3),
        _row(1007, start, start, until_ms=end, source="other"),
        _row(1008, urgency=2.0, rows_after_window=2000),
        _row(1009),
    ]

    async def fill(url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            names = ", ".join(dict.fromkeys(name for user in users for name in user))
            await connection.execute(
                f"INSERT INTO backfill_progress ({names}) SELECT {names}"
                " FROM jsonb_populate_recordset(NULL::backfill_progress, $1::jsonb)",
                json.dumps(users),
            )
            await connection.execute(
                "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
                " SELECT u, '2025-08-01', 'BTC', 'B', 1, 1, 1, n"
                " FROM unnest($1::text[]) AS u, generate_series(1, 3) AS n",
                [USER(1), USER(2000), USER(2001)],
            )
        finally:
            await connection.close()

    with database_server.database(migrated=True) as url:
        run(fill(url))
        yield url


def test_users_are_told_apart_by_what_is_known_of_them(crowded_url: str) -> None:
    found = run(known(crowded_url))
    assert found.users == {
        "finished": 302, "partly": 3, "slices": 0, "unread": 3 + 2, "parked": 1, "elsewhere": 1,
    }  # fmt: skip
    assert (found.losing.unread, found.others.unread) == (1, 4)
    assert found.row_bytes is None  # too few rows to measure


def test_the_database_adds_up_the_weights_that_the_forecast_knows(crowded_url: str) -> None:
    found = run(known(crowded_url))
    read = [41 * i for i in range(300)] + [10**6]
    weights = [rows_weight(rows) for rows in read]
    assert found.others.read_weight.count == found.read == 301
    assert found.others.read_weight.mean * 301 == pytest.approx(sum(weights))
    assert found.others.read_rows.mean * 301 == pytest.approx(sum(read))
    mean = sum(weights) / 301
    variance = sum((weight - mean) ** 2 for weight in weights) / 300
    assert found.others.read_weight.deviation == pytest.approx(variance**0.5)


def test_a_user_partly_read_goes_on_at_its_pace_but_not_beyond_reach(crowded_url: str) -> None:
    found = run(known(crowded_url))
    # 2000 in 200 days leave 1000 in 100, or half of that; 8000 in 10 days would leave 8000, but 10,000 is the end of it
    assert found.partly_rows == 500 + 1000 + 1500
    assert found.partly_weight == rows_weight(500) + rows_weight(1000) + rows_weight(1500)


def test_a_losing_user_is_expected_to_bring_what_is_at_stake(crowded_url: str) -> None:
    found = run(known(crowded_url))
    assert found.losing.rows == pytest.approx(3219, abs=1)  # 2000 * ln(10000 / 2000)
    assert found.losing.weight == rows_weight(3219)
    all_kept = run(known(crowded_url, replace(JOB, source=JOB.source.model_copy(update={"keeps_all": True}))))
    assert (all_kept.losing.unread, all_kept.others.unread) == (0, 5)


def test_users_read_for_a_narrower_window_count_the_rest_of_a_wider_one_and_stay_a_sample(crowded_url: str) -> None:
    wider = replace(JOB, window=replace(WINDOW, end_ms=WINDOW.end_ms + 317 * DAY_MS))  # 1.5 times as long
    found = run(known(crowded_url, wider))
    assert found.users["finished"] == 1
    assert found.users["partly"] == 301 + 3
    assert found.read == 301
    narrow = run(known(crowded_url))
    assert found.others.read_rows.mean == pytest.approx(narrow.others.read_rows.mean * 1.5, rel=0.35)


def test_every_list_of_slices_is_asked_for_where_it_always_is(crowded_url: str) -> None:
    found = run(known(crowded_url, replace(JOB, twap="always")))
    assert (found.users["slices"], found.users["finished"]) == (301, 1)
    assert plan(replace(JOB, twap="always"), found).cost.weight.low >= 301 * 20


def test_of_users_named_those_unknown_are_unread(crowded_url: str) -> None:
    found = run(known(crowded_url, replace(JOB, users=[USER(5), USER(1006), USER(3000), USER(2000)])))
    assert (found.users["finished"], found.users["parked"], found.users["unread"]) == (1, 1, 2)


# -- the command ------------------------------------------------------------------------------


def test_a_number_of_users_needs_no_database_and_makes_none(tmp_path: Path) -> None:
    outcome = cli("--users", "100000", "--addresses", "30", VIGIL_DATA_DIR=tmp_path / "none")
    assert outcome.exit_code == 0, outcome.output
    assert "100,000 to read: 100,000 not read yet" in outcome.stdout
    assert "This is an assumption, no measurement" in outcome.stdout
    assert [line.split()[0] for line in outcome.stdout.splitlines()[7:11]] == ["1", "4", "10", "30"]
    assert not (tmp_path / "none").exists()


def test_without_a_database_users_can_be_named_and_nobody_else_is_known(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text("\n".join(map(USER, range(70))))
    outcome = cli("--users-file", str(file), "--json", VIGIL_DATA_DIR=tmp_path / "none")
    assert json.loads(outcome.stdout)["users"]["unread"] == 70
    nobody = cli(VIGIL_DATA_DIR=tmp_path / "none")
    assert isinstance(nobody.exception, UsageError)
    assert "--users N" in nobody.exception.hint
    assert not (tmp_path / "none").exists()


def test_an_empty_database_stays_empty_and_an_old_one_wants_to_be_migrated(database_url: str) -> None:
    outcome = cli("--user", USER(1), "--json", VIGIL_DATABASE_URL=database_url)
    assert json.loads(outcome.stdout)["users"]["to_read"] == 1
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    assert run(ask(database_url, tables)) == 0
    run(tell(database_url, "CREATE TABLE fills (user_address text)"))
    refused = cli("--user", USER(1), VIGIL_DATABASE_URL=database_url)
    assert isinstance(refused.exception, UsageError)
    assert "vigil-backfill" in refused.exception.hint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--users", "5", "--user", USER(1)], "not both"),
        (["--users", "5", "--addresses", "1,x"], "--addresses '1,x' is no list of numbers"),
        (["--users", "5", "--source", "nowhere"], "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], said: str) -> None:
    refused = cli(*arguments)
    assert isinstance(refused.exception, UsageError)
    assert said in str(refused.exception)


def test_nothing_is_asked_registered_or_written_and_the_answer_is_complete(crowded_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 62)) as exchange:
            changes = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables"
            env = environment(crowded_url, exchange)
            outcome = await vigil("plan", "--json", env=env)
            assert outcome.code == 0, outcome.err
            told = json.loads(outcome.out)
            assert told["users"] == {
                "to_read": 8, "unread": 5, "partly": 3, "slices": 0, "finished": 302, "parked": 1, "elsewhere": 1,
            }  # fmt: skip
            assert told["basis"] == ["archives", "read"]
            assert [row["addresses"] for row in told["seconds"]] == [1, 4, 10]
            assert exchange.stats.requests == 0
            assert await ask(crowded_url, "SELECT count(*) FROM backfill_workers") == 0
            assert await ask(crowded_url, changes) == 0

    run(scenario())
