"""The ways that vigil's writing is measured against end with the very rows that vigil stores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.baselines.replay import dead_tuples, traced, versions
from benchmarks.baselines.table import Page, copy_file, default_collation, fresh_table, write_ready
from benchmarks.ingest import commit_pages
from benchmarks.ways import BASELINE, OTHER_KEY, OURS, TABLE, WAYS, Contest, keyed_pages
from tests.kit.loop import run
from vigil.copy_text import COPY_COLUMNS
from vigil.db import session

ROWS, PAGE_ROWS = 400, 100
THEIRS = ", ".join(f'{name} COLLATE "C"' if name in ("user_address", "coin", "side") else name for name in COPY_COLUMNS)
DIFFERING = f"""
    WITH mine AS (SELECT {", ".join(COPY_COLUMNS)} FROM fills), theirs AS (SELECT {THEIRS} FROM {TABLE})
    SELECT (SELECT count(*) FROM (SELECT * FROM mine EXCEPT ALL SELECT * FROM theirs) AS lost)
        + (SELECT count(*) FROM (SELECT * FROM theirs EXCEPT ALL SELECT * FROM mine) AS made_up)
"""


@pytest.fixture(autouse=True)
def impatient_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few rows never fill a batch."""
    monkeypatch.setenv("VIGIL_BATCH_SECONDS", "0.02")


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    found = keyed_pages(ROWS, PAGE_ROWS)
    present = {name for _, body in found for row in json.loads(body) for name in row}
    assert {"cloid", "builderFee", "feeTrialEscrow"} <= present, "choose users who have what is seldom"
    return found


async def differing(dsn: str) -> int:
    async with session(dsn) as connection:
        assert await connection.fetchval("SELECT count(*) FROM fills") == ROWS
        return int(await connection.fetchval(DIFFERING))


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.own_table])
def test_every_way_by_hand_writes_the_rows_that_vigil_stores(name: str, migrated_url: str, pages: list[Page]) -> None:
    for package in WAYS[name].needs:
        pytest.importorskip(package, reason=f"{package} is in the extra `bench`")

    async def scenario() -> int:
        await commit_pages(migrated_url, pages)
        await fresh_table(migrated_url, TABLE)
        await WAYS[name].write(migrated_url, TABLE, pages)
        return await differing(migrated_url)

    assert run(scenario()) == 0


def test_the_ready_file_holds_the_rows_that_vigil_stores(migrated_url: str, pages: list[Page], tmp_path: Path) -> None:
    ready = tmp_path / "ready.csv"
    write_ready(ready, pages)

    async def scenario() -> list[int]:
        await commit_pages(migrated_url, pages)
        async with session(migrated_url) as connection:
            found = await default_collation(connection)
        counts = []
        for collation in ("C", found or "C"):
            await fresh_table(migrated_url, TABLE, collation)
            await copy_file(migrated_url, TABLE, ready)
            counts.append(await differing(migrated_url))
        return counts

    assert run(scenario()) == [0, 0]


def test_a_table_to_write_into_has_the_key_of_fills_and_the_collation_asked_for(migrated_url: str) -> None:
    index = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indisprimary AND indrelid = $1::text::regclass"
    collated = "SELECT collation_name FROM information_schema.columns WHERE table_name = $1 AND column_name = 'coin'"

    async def scenario() -> None:
        async with session(migrated_url) as connection:
            ours = (await connection.fetchval(index, "fills")).partition("USING")[2]
            for collation in ("C", "ucs_basic"):
                await fresh_table(migrated_url, TABLE, collation)
                assert (await connection.fetchval(index, TABLE)).partition("USING")[2] == ours
                assert await connection.fetchval(collated, TABLE) == collation

    run(scenario())


def test_pages_once_more_leave_no_trace_in_fills_and_a_trace_would_be_seen(
    migrated_url: str, pages: list[Page]
) -> None:
    async def scenario() -> None:
        async with session(migrated_url) as connection:  # which sets the count anew whenever it comes by
            await connection.execute("ALTER TABLE fills SET (autovacuum_enabled = false)")
        new = await traced(migrated_url, lambda: commit_pages(migrated_url, pages))
        again = await traced(migrated_url, lambda: commit_pages(migrated_url, pages))
        assert (again.dead_tuples, again.versions) == (0, new.versions)
        assert again.wal_bytes < new.wal_bytes
        async with session(migrated_url) as connection:
            await connection.execute("UPDATE fills SET seq = seq WHERE user_address = $1", pages[0][0])
            assert await dead_tuples(connection) == PAGE_ROWS
            assert await versions(connection) != new.versions

    run(scenario())


def test_a_round_has_every_way_that_is_installed_and_names_the_others(
    migrated_url: str,
    pages: list[Page],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("psycopg", "sqlalchemy", "dlt"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    ready = tmp_path / "ready.csv"
    write_ready(ready, pages)
    contest = Contest(migrated_url, pages, ready, only=())

    async def scenario() -> None:
        await contest.prepare()
        await contest.round(1)

    run(scenario())
    told = capsys.readouterr().out
    assert {name for name, way in WAYS.items() if f"{name}: not installed" in told} == {
        name for name, way in WAYS.items() if way.needs
    }
    measured = {OURS, *(name for name, way in WAYS.items() if not way.needs)}
    assert measured <= set(contest.figures) <= measured | {BASELINE, OTHER_KEY}
    contest.tell()
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(line.startswith(f"{name}  ") for line in lines) == 1 for name in contest.figures)
