"""Loading archive files into a real database: once each, whatever happens to the file, the load, or its neighbours."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from tests.kit.archives import START, USERS, block_line, events_of, lines_of, loaded, packed, settings_of
from tests.kit.backfill import OWN_SESSIONS, WINDOW, ask, compared, everybody, settings_for, small, tell, until
from tests.kit.command import environment, finish, start, vigil
from tests.kit.factories import body_of, wire_row
from tests.kit.loop import run
from vigil.archives import EVERYTHING, Batch, NotFills, Scope
from vigil.claims import EVERYBODY
from vigil.cli import with_commands
from vigil.db import Link
from vigil.errors import EXIT_SOME_USERS_FAILED, ClaimLost, UsageError
from vigil.export import Export, Numbers, Wanted
from vigil.export.place import Directory
from vigil.fills import decode_page
from vigil.judge import Judge
from vigil.load.loading import Load, known_files
from vigil.load.manifest import Manifest
from vigil.load.places import find
from vigil.pipeline import Run
from vigil.simulator import DEFAULT_NOW_MS, Population, Simulator
from vigil.simulator.archives import write_archives
from vigil.store import Chunk, Store, prepare_staging

STAMP = "SELECT string_agg(tableoid::text || xmin::text || ctid::text, ',' ORDER BY user_address, tid) FROM fills"
MANIFEST_ADDS_UP = """
SELECT
    count(*) FILTER (WHERE complete) AS files, sum(received) AS received, sum(inserted) AS inserted,
    (SELECT count(*) FROM fills) AS rows
FROM backfill_files
"""


async def tids(url: str) -> list[int]:
    found: list[int] = await ask(url, "SELECT coalesce(array_agg(tid ORDER BY tid), '{}') FROM fills")
    return found


async def row_of(url: str, query: str, *arguments: Any) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(query, *arguments)
        assert row is not None
        return dict(row)
    finally:
        await connection.close()


async def file_row(url: str, path: Path | str) -> dict[str, Any]:
    return await row_of(url, "SELECT * FROM backfill_files WHERE name = $1", str(path))


async def patiently(url: str, query: str) -> None:
    """Wait until `query` is true, for a process that has yet to start."""
    for _ in range(5):
        with suppress(TimeoutError):
            return await until(url, query)
    return await until(url, query)


# What a load does


def test_files_of_every_kind_are_in_once_with_all_they_tell(migrated_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "hourly" / "20250728"
    folder.mkdir(parents=True)
    (folder / "0.lz4").write_bytes(packed(lines_of(events_of(120))))
    (folder / "1").write_bytes(lines_of(events_of(30, 121, twapId=5, builder="0xb")))
    (tmp_path / "pairs.gz").write_bytes(
        gzip.compress(b'["%s",%s]\n' % (USERS[0].encode(), body_of([wire_row(START, 900)])[1:-1]))
    )
    (tmp_path / "_export.json").write_text("{}")

    async def scenario() -> None:
        tally = await loaded(migrated_url, tmp_path)
        assert (tally.files_done, tally.received, tally.inserted, tally.exit_code) == (3, 151, 151, 0)
        assert tally.bytes_done == tally.bytes_total
        assert await tids(migrated_url) == [*range(1, 151), 900]
        told = await row_of(
            migrated_url,
            "SELECT twap_id, block_time::text, seq, extra->>'builder' AS builder FROM fills WHERE tid = 140",
        )
        assert told == {"twap_id": 5, "block_time": "2025-07-28 00:00:00.27372+00", "seq": None, "builder": "0xb"}
        row = await file_row(migrated_url, folder / "0.lz4")
        assert (row["complete"], row["received"], row["inserted"], row["lines_done"]) == (True, 120, 120, 40)
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE state = 'pending'") == len(USERS)

    run(scenario())


def test_files_that_are_in_cost_no_row_a_second_time_unless_they_are_to_be_read_again(
    migrated_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.lz4"
    path.write_bytes(packed(lines_of(events_of(60))))

    async def scenario() -> None:
        await loaded(migrated_url, path)
        before = await ask(migrated_url, STAMP)
        second = await loaded(migrated_url, path)
        assert (second.files_known, second.received, second.batches, second.exit_code) == (1, 0, 0, 0)
        again = await loaded(migrated_url, path, again=True)
        assert (again.files_known, again.received, again.already_there) == (0, 60, 60)
        assert await ask(migrated_url, STAMP) == before
        row = await file_row(migrated_url, path)
        assert (row["received"], row["already_there"], row["complete"]) == (60, 60, True)

    run(scenario())


def test_an_archived_row_and_the_exchanges_tell_more_together_than_each_and_neither_covers_the_other(
    migrated_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of([(USERS[0], wire_row(START, 1, twapId=5, builder="0xb"))]))
    served = decode_page(body_of([wire_row(START, 1, cloid="0xc", feeTrialEscrow="1")]))

    async def api_first(api: bool) -> dict[str, Any]:
        await tell(migrated_url, "TRUNCATE fills, backfill_files, backfill_progress, backfill_workers")
        worker = "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at) VALUES (7, 'h', 1, 'infinity')"
        await tell(migrated_url, worker)
        for step in (True, False) if api else (False, True):
            if step:
                claimed = "INSERT INTO backfill_progress (user_address, claimed_by) VALUES ($1, 7)"
                await tell(migrated_url, claimed + " ON CONFLICT (user_address) DO UPDATE SET claimed_by = 7", USERS[0])
                link = Link(migrated_url, settings_of(), prepare=prepare_staging)
                await Store(link, 7, lease_seconds=60).commit([Chunk(USERS[0], START, list(served))])
                await link.close()
            else:
                await loaded(migrated_url, path)
        return await row_of(migrated_url, "SELECT * FROM fills")

    async def scenario() -> None:
        both = await api_first(True)
        assert both == await api_first(False)
        assert (both["seq"], both["twap_id"], both["cloid"]) == (0, 5, "0xc")
        assert both["block_time"] is not None
        assert both["extra"] == '{"builder": "0xb", "feeTrialEscrow": "1"}'

    run(scenario())


def test_a_null_in_extra_covers_nothing_that_is_known(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        for name, told in (("a", {"one": 1, "deep": {"x": None}}), ("b", {"one": None, "two": None, "three": 3})):
            (tmp_path / name).write_bytes(lines_of([(USERS[0], wire_row(START, 1, **told))]))
            assert (await loaded(migrated_url, tmp_path / name)).received == 1
        merged = {"one": 1, "deep": {"x": None}, "two": None, "three": 3}
        assert json.loads(await ask(migrated_url, "SELECT extra::text FROM fills")) == merged
        assert (await loaded(migrated_url, tmp_path / "b", again=True)).already_there == 1

    run(scenario())


def test_what_can_not_be_stored_is_kept_raw_and_counted(migrated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    events: list[tuple[str, object]] = [*events_of(5), (USERS[1], wire_row(START, 77, px="free")), ("nobody", {})]
    path.write_text(f"{block_line(events)}\nnonsense\n{block_line(events_of(1, 6, dir='Evil'))}\n")

    async def scenario() -> None:
        await tell(migrated_url, "ALTER TABLE fills ADD CONSTRAINT no_evil CHECK (dir <> 'Evil')")
        tally = await loaded(migrated_url, path)
        assert (tally.received, tally.inserted, tally.rejected, tally.exit_code) == (9, 5, 4, 0)
        kept = "SELECT array_agg(user_address ORDER BY user_address) FROM rejected_fills"
        assert await ask(migrated_url, kept) == sorted(["", "", USERS[1], USERS[6]])
        raw = "SELECT raw::json ->> 'dir' FROM rejected_fills WHERE reason LIKE '%no_evil%'"
        assert await ask(migrated_url, raw) == "Evil"
        assert (await file_row(migrated_url, path))["rejected"] == 4

    run(scenario())


def test_a_file_of_something_else_fails_alone_and_says_why(migrated_url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(lines_of(events_of(3)))
    (tmp_path / "b").write_text('{"coin": "BTC", "px": "1", "sz": "1", "side": "B", "side_info": []}\n')
    (tmp_path / "c").write_bytes(lines_of(events_of(3, 4)))

    async def scenario() -> None:
        tally = await loaded(migrated_url, tmp_path)
        assert list(tally.failed) == [str(tmp_path / "b")]
        assert isinstance(tally.failed[str(tmp_path / "b")], NotFills)
        assert tally.exit_code == EXIT_SOME_USERS_FAILED
        assert await tids(migrated_url) == [1, 2, 3, 4, 5, 6]
        assert "node_trades" in (await file_row(migrated_url, tmp_path / "b"))["error"]

    run(scenario())


def test_a_load_with_a_scope_is_not_taken_for_the_whole_file(migrated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of(events_of(64)))
    scope = Scope(users=frozenset(USERS[:1]))

    async def scenario() -> None:
        some = await loaded(migrated_url, path, scope=scope)
        assert (some.received, some.passed_over) == (8, 56)
        assert (await loaded(migrated_url, path, scope=scope)).files_known == 1
        rest = await loaded(migrated_url, path)
        assert (rest.inserted, rest.already_there) == (56, 8)
        assert (await loaded(migrated_url, path, scope=Scope(start_ms=5))).files_known == 1

    run(scenario())


# The same file: cut, grown, replaced, copied


def test_a_part_asked_for_of_a_file_that_is_in_leaves_it_told_that_all_of_it_is(
    migrated_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of(events_of(60)))

    async def scenario() -> None:
        await loaded(migrated_url, path)
        for again in (1, 2):
            os.utime(path, ns=(again, again))
            tally = await loaded(
                migrated_url, path, scope=Scope(users=frozenset(USERS[:1])) if again == 1 else EVERYTHING
            )
            assert (tally.received, tally.files_done) == (0, 1)
        rows = await ask(migrated_url, "SELECT array_agg(complete ORDER BY scope) FROM backfill_files")
        assert rows == [True, True]

    run(scenario())


def test_a_cut_file_is_in_as_far_as_it_goes_and_goes_on_when_it_is_whole(migrated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.lz4"
    whole = packed(lines_of(events_of(300)))
    path.write_bytes(whole[: len(whole) // 2])

    async def scenario() -> None:
        cut = await loaded(migrated_url, path)
        assert cut.exit_code == EXIT_SOME_USERS_FAILED
        row = await file_row(migrated_url, path)
        assert (row["complete"], row["received"]) == (False, cut.inserted)
        assert f"line {row['lines_done']}" in row["error"]
        assert 0 < cut.inserted < 300
        assert (await loaded(migrated_url, path)).received == 0  # nothing new in it
        path.write_bytes(whole)
        rest = await loaded(migrated_url, path)
        assert (rest.received, rest.already_there, rest.exit_code) == (300 - cut.inserted, 0, 0)
        row = await file_row(migrated_url, path)
        assert (row["complete"], row["error"], row["received"], row["lines_done"]) == (True, None, 300, 100)

    run(scenario())


def test_a_file_that_grew_goes_on_a_replaced_one_is_read_anew_and_a_copy_is_known(
    migrated_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of(events_of(60)))

    async def scenario() -> None:
        await loaded(migrated_url, path)
        path.write_bytes(lines_of(events_of(90)))
        grown = await loaded(migrated_url, path)
        assert (grown.received, grown.inserted) == (30, 30)
        assert (await file_row(migrated_url, path))["received"] == 90
        os.utime(path, ns=(1, 1))
        assert (await loaded(migrated_url, path)).received == 0
        copy = tmp_path / "elsewhere" / "b"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        assert (await loaded(migrated_url, copy)).received == 0
        assert (await file_row(migrated_url, copy))["complete"]
        text = lines_of(events_of(90))
        path.write_bytes(text.replace(b'"0.01"', b'"0.02"', 40))
        replaced = await loaded(migrated_url, path)
        assert (replaced.received, replaced.updated) == (90, 40)

    run(scenario())


# Killed, stopped, shared


@pytest.mark.parametrize("nth", [2, 11])
def test_killed_at_any_moment_a_load_goes_on_and_every_row_is_in_once(
    migrated_url: str, tmp_path: Path, nth: int
) -> None:
    for name in "abc":
        first = 1 + 400 * "abc".index(name)
        (tmp_path / f"{name}.lz4").write_bytes(packed(lines_of(events_of(400, first))))

    async def scenario() -> None:
        env = environment(migrated_url, VIGIL_BATCH_ROWS=50)
        # Batches are let through one after the other, so that the kill is in the middle of the nth.
        gate = """
            CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.received > OLD.received THEN
                    PERFORM pg_advisory_xact_lock_shared(4711);
                END IF;
                RETURN NEW;
            END $$
        """
        await tell(migrated_url, gate)
        await tell(
            migrated_url,
            "CREATE TRIGGER gate BEFORE UPDATE ON backfill_files FOR EACH ROW EXECUTE FUNCTION pass_gate()",
        )
        keeper = await asyncpg.connect(migrated_url)
        try:
            await keeper.execute("SELECT pg_advisory_lock(4711)")
            process = await start("load", str(tmp_path), env=env)
            for batch in range(1, nth + 1):
                await patiently(migrated_url, f"SELECT count(*) > 0 FROM {OWN_SESSIONS} WHERE wait_event = 'advisory'")
                if batch < nth:  # through, and shut behind it: who asks for the lock waits in line
                    await keeper.execute("SELECT pg_advisory_unlock(4711)")
                    await keeper.execute("SELECT pg_advisory_lock(4711)")
            process.kill()
            assert (await finish(process)).code == -signal.SIGKILL
            await keeper.execute("SELECT pg_advisory_unlock(4711)")
        finally:
            await keeper.close()
        await tell(migrated_url, "DROP TRIGGER gate ON backfill_files")
        outcome = await vigil("load", str(tmp_path), env=env)
        assert outcome.code == 0, outcome.err
        assert await tids(migrated_url) == list(range(1, 1201))
        row = await row_of(migrated_url, MANIFEST_ADDS_UP)
        assert list(row.values()) == [3, 1200, 1200, 1200]

    run(scenario())


def test_loads_side_by_side_share_the_files_and_none_is_read_twice(migrated_url: str, tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.lz4").write_bytes(packed(lines_of(events_of(200, 1 + 200 * number))))

    async def scenario() -> None:
        loads = [Load(settings_of(), migrated_url, find([str(tmp_path)]), jobs=2) for _ in range(2)]
        tallies = await asyncio.gather(*(load.run_jobs() for load in loads))
        assert sum(tally.received for tally in tallies) == sum(tally.inserted for tally in tallies) == 1600
        assert [tally.files_done + tally.files_known for tally in tallies] == [8, 8]
        assert sum(tally.files_done for tally in tallies) == 8
        assert await tids(migrated_url) == list(range(1, 1601))

    run(scenario())


def test_a_load_that_lost_its_file_to_another_commits_nothing_more(migrated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of(events_of(9)))

    async def scenario() -> None:
        (item,) = find([str(path)])
        one, other = (Manifest(migrated_url, settings_of(), loader, "") for loader in (1, 2))
        try:
            taken = await one.take(item, again=False)
            await other.take(item, again=False)
            with pytest.raises(ClaimLost, match="taken"):
                await one.commit(taken, Batch(taken.place, last=True))
        finally:
            await one.close()
            await other.close()

    run(scenario())


def test_a_signal_commits_the_batch_under_way_and_the_same_command_goes_on(migrated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.lz4"
    path.write_bytes(packed(lines_of(events_of(2000))))

    async def scenario() -> None:
        keeper = await asyncpg.connect(migrated_url)
        try:
            async with keeper.transaction():
                await keeper.execute("LOCK TABLE fills IN SHARE MODE")
                loading = asyncio.create_task(loaded(migrated_url, path))
                await until(migrated_url, f"SELECT count(*) > 0 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'")
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0)
            stopped = await loading
        finally:
            await keeper.close()
        assert (stopped.exit_code, stopped.batches) == (143, 1)
        assert 0 < stopped.inserted == len(await tids(migrated_url)) < 2000
        rest = await loaded(migrated_url, path)
        assert (rest.exit_code, rest.received) == (0, 2000 - stopped.inserted)
        assert await tids(migrated_url) == list(range(1, 2001))

    run(scenario())


def test_a_second_signal_rolls_the_batch_back_at_once(migrated_url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(lines_of(events_of(20)))

    async def scenario() -> None:
        keeper = await asyncpg.connect(migrated_url)
        try:
            async with keeper.transaction():
                await keeper.execute("LOCK TABLE fills IN SHARE MODE")
                load = Load(settings_of(), migrated_url, find([str(tmp_path)]))
                loading = asyncio.create_task(load.execute())
                await until(migrated_url, f"SELECT count(*) > 0 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'")
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)
                await asyncio.wait({loading})
                assert loading.cancelled()
                assert load.tally.exit_code == 130
        finally:
            await keeper.close()
        assert await tids(migrated_url) == []

    run(scenario())


# Users, verdicts, runs


async def complete(url: str, users: Iterable[str]) -> None:
    """Users that a run has read, and that were judged."""
    await tell(
        url,
        "INSERT INTO backfill_progress (user_address, completed, window_start_ms, window_end_ms, cursor_ms, judged_at,"
        " verdict) SELECT unnest($1::text[]), true, 0, 1, 1, now(), 'complete'",
        list(users),
    )


def test_users_with_new_rows_await_their_verdict_again_and_others_keep_theirs(
    migrated_url: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(lines_of([(USERS[0], wire_row(START, 1)), (USERS[1], wire_row(START, 2))]))
    (tmp_path / "b").write_bytes(lines_of([(USERS[0], wire_row(START, 1)), (USERS[2], wire_row(START, 3))]))
    unjudged = "SELECT array_agg(user_address ORDER BY 1) FROM backfill_progress WHERE judged_at IS NULL"

    async def scenario() -> None:
        await complete(migrated_url, USERS[:4])
        await loaded(migrated_url, tmp_path / "a")
        assert await ask(migrated_url, unjudged) == USERS[:2]
        await tell(migrated_url, "UPDATE backfill_progress SET judged_at = now()")
        await loaded(migrated_url, tmp_path / "b")
        assert await ask(migrated_url, unjudged) == [USERS[2]]

    run(scenario())


def test_a_judge_at_work_is_waited_for_because_it_has_not_seen_the_rows(migrated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of([(USERS[0], wire_row(START, 1))]))

    async def scenario() -> None:
        await complete(migrated_url, USERS[:1])
        await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL")
        judge = await asyncpg.connect(migrated_url)
        try:
            judging = judge.transaction()
            await judging.start()
            await judge.execute("SELECT FROM backfill_progress FOR UPDATE")
            loading = asyncio.create_task(loaded(migrated_url, path))
            await until(migrated_url, f"SELECT count(*) > 0 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'")
            await judge.execute("UPDATE backfill_progress SET judged_at = now()")  # by what it saw before
            await judging.commit()
            await loading
        finally:
            await judge.close()
        assert await ask(migrated_url, "SELECT judged_at IS NULL FROM backfill_progress")
        link = Link(migrated_url, settings_of())
        await Judge(link, EVERYBODY.range).judge_all()
        await link.close()
        assert await ask(migrated_url, "SELECT judged_at IS NOT NULL FROM backfill_progress")

    run(scenario())


def test_a_load_does_not_wait_for_workers_that_hold_its_users_nor_they_for_it(
    migrated_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(lines_of(events_of(24)))

    async def scenario() -> None:
        await tell(
            migrated_url, "INSERT INTO backfill_progress (user_address, claimed_by) SELECT unnest($1::text[]), 7", USERS
        )
        worker = await asyncpg.connect(migrated_url)
        try:
            async with worker.transaction():
                await worker.execute("UPDATE backfill_progress SET cursor_ms = 5")
                assert (await loaded(migrated_url, path)).inserted == 24
        finally:
            await worker.close()

    run(scenario())


def test_a_load_beside_a_run_over_the_same_rows_leaves_each_of_them_once(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Simulator(small(24, 5, lengths={2: 700}, weight_per_minute=0)) as exchange:
            parts = write_archives(exchange.population, tmp_path, WINDOW.start_ms, WINDOW.end_ms, now_ms=DEFAULT_NOW_MS)
            one_file = tmp_path / "all"
            one_file.write_bytes(b"".join(part.read_bytes() for part in parts))
            running = Run(settings_for(exchange, batch_rows=200), migrated_url, WINDOW, users=everybody(exchange))
            load = Load(settings_of(), migrated_url, find([str(one_file)]))
            tally, loading = await asyncio.gather(running.execute(), load.run_jobs())
            assert tally.users_done == 24
            assert loading.received == loading.inserted + loading.updated + loading.already_there
            rows = await ask(migrated_url, "SELECT count(*) FROM fills")
            assert tally.inserted + loading.inserted == rows
            await tell(
                migrated_url,
                "UPDATE backfill_progress AS p SET fills_count = (SELECT count(*) FROM fills AS f"
                " WHERE f.user_address = p.user_address)",
            )  # which counts what a run added
            assert (await compared(exchange, migrated_url)).equal

    run(scenario())


@pytest.mark.parametrize("numbers", ["decimal", "text"])
def test_what_is_exported_and_loaded_again_is_the_same_table(migrated_url: str, tmp_path: Path, numbers: str) -> None:
    pytest.importorskip("pyarrow")
    events = events_of(40, twapId=5, new={"a": "\\t\\", "b": [1, 2.5]}, coin="we\\ird\tcoin", px="15105850.5999999996")
    (tmp_path / "a").write_bytes(lines_of(events))
    out = tmp_path / "exported"
    everything = "SELECT array_agg(fills ORDER BY user_address, time, tid)::text FROM fills"

    async def scenario() -> None:
        await loaded(migrated_url, tmp_path / "a")
        nulls = "dir = NULL, start_position = NULL, crossed = NULL, block_time = NULL"
        await tell(migrated_url, f"UPDATE fills SET {nulls}, seq = 3 WHERE tid < 5")
        await tell(migrated_url, "UPDATE fills SET tid = -tid, fee = -0.0000000001 WHERE tid > 30")
        # Trailing zeros are no part of a number, but of its text.
        await tell(migrated_url, "UPDATE fills SET closed_pnl = 0, start_position = trim_scale(start_position)")
        before = await ask(migrated_url, everything)
        wanted = Wanted(numbers=Numbers(numbers))
        await Export(settings_of(), migrated_url, wanted, Directory(out, overwrite=False)).execute()
        await tell(migrated_url, "TRUNCATE fills")
        tally = await loaded(migrated_url, out)
        assert (tally.received, tally.inserted, tally.exit_code) == (40, 40, 0)
        assert await ask(migrated_url, everything) == before

    run(scenario())


# The command


def test_a_dry_run_lists_what_is_in_and_changes_nothing(migrated_url: str, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(lines_of(events_of(9, 1 + 9 * "abc".index(name))))
    with (tmp_path / "b").open("ab") as file:
        file.write(b'{"cut')

    async def scenario() -> None:
        env = environment(migrated_url)
        await loaded(migrated_url, tmp_path / "a", tmp_path / "b")
        outcome = await vigil("load", str(tmp_path), "--dry-run", env=env)
        assert outcome.code == 0
        told = [line.split(maxsplit=1)[1].split("  ")[0].strip() for line in outcome.out.splitlines()[:3]]
        assert told == ["in: 3 lines", "in part: up to line 3", "not in"]
        assert "3 files; 2 to load" in outcome.out
        assert len(await tids(migrated_url)) == 18

    run(scenario())


def test_standard_input_is_loaded_and_says_that_it_has_no_name_to_go_on_by(migrated_url: str) -> None:
    async def scenario() -> None:
        env = environment(migrated_url, VIGIL_PROGRESS_SECONDS=0.01)
        for inserted in (60, 0):
            outcome = await vigil("load", "-", env=env, stdin=packed(lines_of(events_of(60))))
            assert outcome.code == 0, outcome.err
            assert "no name to go on by" in outcome.err
            assert f"60 rows, {inserted} new" in outcome.err
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_files") == 0

    run(scenario())


def test_a_single_file_of_something_else_is_a_usage_error(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("hello\n")

    async def scenario() -> None:
        outcome = await vigil("load", str(path), env=environment(database_url))
        assert outcome.code == 2
        assert outcome.err.splitlines()[-2].startswith(f"error: {path}: It is no archive of fills")
        outcome = await vigil("load", str(tmp_path / "nothing*"), env=environment(database_url))
        assert (outcome.code, "There is no file" in outcome.err) == (2, True)

    run(scenario())


def test_globs_directories_and_files_are_found_once_each(tmp_path: Path) -> None:
    for name in ("20250728/0.lz4", "20250728/1.lz4", "20250729/0.lz4", "20250729/.1.lz4.part", "x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find([str(tmp_path / "2025*"), str(tmp_path / "20250728/0.lz4"), str(tmp_path / "**/*.json")])
    names = [str(Path(item.name).relative_to(tmp_path.resolve())) for item in found]
    assert names == ["20250728/0.lz4", "20250728/1.lz4", "20250729/0.lz4", "x.json"]
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "absent", "absent*"):
        with pytest.raises(UsageError):
            find([str(tmp_path / wrong)])


def test_a_directory_is_read_with_all_below_it_by_links_too_but_for_what_is_nobodys_data(tmp_path: Path) -> None:
    for name in ("day/0.lz4", "elsewhere/1.lz4", "day/fills.parquet.export.json", "day/_export.json", "day/.x/2.lz4"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "day/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "day/round").symlink_to(tmp_path / "day")
    assert [Path(item.name).name for item in find([str(tmp_path / "day")])] == ["0.lz4", "1.lz4"]


def test_a_directory_below_that_can_not_be_looked_into_is_told_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "0.lz4").write_text("x")
    look = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may look anywhere
    with pytest.raises(UsageError, match=r"closed can't be read: Permission denied"):
        find([str(tmp_path)])


def test_what_is_no_file_and_a_name_that_can_not_be_remembered_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no file") as caught:
        find([str(tmp_path / "pipe")])
    assert "vigil-backfill load -" in caught.value.hint
    (tmp_path / os.fsdecode(b"a\xff")).write_text("x")
    with pytest.raises(UsageError, match="is no UTF-8"):
        find([str(tmp_path / "a*")])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-", "--users-file", "-"], "can't be both the fills and the users"),
        (["/dev/null", "--users-file", "/dev/null"], "No users given"),
    ],
)
def test_a_load_that_could_only_load_nothing_is_a_usage_error(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(with_commands(), ["load", *arguments])
    assert isinstance(result.exception, UsageError)
    assert told in str(result.exception)


def test_known_files_of_a_database_without_a_schema_are_none(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert run(known_files(database_url, settings_of(), find([str(tmp_path)]), EVERYTHING)) == {}


@pytest.mark.parametrize("form", ["node_fills_by_block", "node_fills"])
def test_archives_of_the_simulated_exchange_hold_all_that_happened_in_their_hours(tmp_path: Path, form: str) -> None:
    """Also what retention took since, and what the other side of a trade did."""
    arguments = ["simulate-archives", str(tmp_path), "--users", "6", "--seed", "5", "--form", form, "--plain"]
    result = CliRunner().invoke(with_commands(), [*arguments, "--start", "2025-07-27", "--end", "2026-07-27"])
    assert result.exit_code == 0
    written = [Path(line) for line in result.stdout.splitlines()]
    assert written == sorted(written, key=lambda path: (path.parent.name, int(path.name)))
    population = Population(6, seed=5)
    events: Counter[tuple[str, str]] = Counter()
    for path in written:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            pairs = row["events"] if form == "node_fills_by_block" else [row]
            events.update((user, json.dumps(fill)) for user, fill in pairs)
            hours = {datetime.fromtimestamp(fill["time"] / 1000, UTC).strftime("%Y%m%d/%-H") for _, fill in pairs}
            assert hours == {f"{path.parent.name}/{path.name}"}
    first_ms, end_ms = WINDOW.end_ms, WINDOW.end_ms + 365 * 86_400_000
    expected = [
        (population.address(index), json.dumps(fill))
        for index in range(6)
        for fill in population.fills(index)
        if first_ms <= fill["time"] < end_ms
    ]
    assert events == Counter(expected)
    assert events
