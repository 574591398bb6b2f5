"""Committing batches to a real database, over lines that are cut, stalled and lied about."""

from __future__ import annotations

import asyncio
import json
import random
import string
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.kit.backfill import OWN_SESSIONS, ask, tell, until
from tests.kit.factories import Row, fill_of, wire_row
from tests.kit.loop import run
from tests.kit.proxy import Fate, Proxy
from vigil.claims import session_name
from vigil.cursor import Gap, GapKind
from vigil.db import Link, connect
from vigil.errors import ClaimLost, SchemaMismatch, StoreError, StoreUnavailable, UsageError, VigilError
from vigil.fills import Rejected, decode_page
from vigil.settings import Settings
from vigil.store import FEW_ROWS_A_USER, Chunk, Committed, Store, check_fills_table, prepare_staging
from vigil.tally import Tally

WORKER = 77
START, END = 1_700_000_000_000, 1_710_000_000_000
USERS = [f"0x{n:040x}" for n in range(1, 6)]
USER = USERS[0]


def impatient(**overrides: Any) -> Settings:
    given = {"database_patience_seconds": 10.0, "database_timeout_seconds": 8.0, "lease_seconds": 60.0, **overrides}
    return Settings(**{"_env_file": None, **given})


@dataclass
class Writing:
    """A store on a link of its own, and what it did so far."""

    store: Store
    link: Link
    tally: Tally

    async def commit(self, *chunks: Chunk) -> Committed:
        committed = await self.store.commit(chunks)
        self.tally.count(chunks, committed)
        return committed


@asynccontextmanager
async def a_store(url: str, settings: Settings | None = None) -> AsyncIterator[Writing]:
    settings = settings or impatient()
    link = Link(url, settings, prepare=prepare_staging, server_settings=session_name(WORKER))
    try:
        yield Writing(Store(link, WORKER, lease_seconds=settings.lease_seconds), link, Tally())
    finally:
        await link.close()


async def a_worker(url: str, users: Iterable[str] = USERS) -> None:
    """Worker 77 lives and holds these users."""
    await tell(
        url,
        "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at) VALUES ($1, 'h', 1, now() + '1 minute')",
        WORKER,
    )
    await tell(
        url,
        "INSERT INTO backfill_progress (user_address, claimed_by, window_start_ms, window_end_ms, cursor_ms)"
        " SELECT unnest($1::text[]), $2, $3, $4, $3",
        list(users),
        WORKER,
        START,
        END,
    )


def rows_of(count: int, first: int = 1, **changes: Any) -> list[Row]:
    return [wire_row(START + tid, tid, **changes) for tid in range(first, first + count)]


def chunk_of(rows: Sequence[Row], user: str = USER, **given: Any) -> Chunk:
    fills = [fill_of(row) for row in rows]
    cursor = given.pop("cursor_ms", fills[-1].time if fills else START)
    return Chunk(user, cursor, fills, **given)


async def stored(url: str) -> list[tuple[str, int]]:
    """(user, tid) of all rows there are; the progress must agree about how many."""
    connection = await asyncpg.connect(url)
    try:
        wrong = await connection.fetch(
            "SELECT user_address, fills_count FROM backfill_progress AS p"
            " WHERE fills_count <> (SELECT count(*) FROM fills AS f WHERE f.user_address = p.user_address)"
        )
        assert not wrong, f"fills_count differs from the rows there are: {wrong}"
        rows = await connection.fetch("SELECT user_address, tid FROM fills ORDER BY 1, 2")
        return [(row["user_address"], row["tid"]) for row in rows]
    finally:
        await connection.close()


async def progress(url: str, user: str = USER) -> asyncpg.Record:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow("SELECT * FROM backfill_progress WHERE user_address = $1", user)
        assert row is not None
        return row
    finally:
        await connection.close()


STAMP = "SELECT string_agg(tableoid::text || xmin::text || ctid::text, ',' ORDER BY user_address, tid) FROM fills"
WAITING = f"SELECT count(*) FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'"


async def the_session(url: str) -> int:
    """The pid of the worker's one session."""
    query = f"SELECT pid FROM {OWN_SESSIONS} WHERE application_name = $1"
    pid: int = await ask(url, query, *session_name(WORKER).values())
    return pid


ANOTHER_WAITS = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> $1
)
"""


# What a commit does


def test_new_known_and_changed_rows_are_counted_apart(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            first = await writing.commit(chunk_of(rows_of(10)), chunk_of(rows_of(5), USERS[1]))
            assert first == Committed(15, 15, 0, 0, 0, 0)
            changed = rows_of(2, 9, closedPnl="7.5") + rows_of(3, 11)
            second = await writing.commit(chunk_of(rows_of(8)), chunk_of(changed))
            assert second == Committed(13, inserted=3, updated=2, already_there=8, refused=0, rejected=0)
        assert len(await stored(migrated_url)) == 18
        assert await ask(migrated_url, "SELECT sum(closed_pnl) FROM fills") == 15
        row = await progress(migrated_url)
        assert (row["fills_count"], row["cursor_ms"], row["oldest_fill_time"]) == (13, START + 13, START + 1)

    run(scenario())


def test_every_column_arrives_as_the_exchange_told_it(migrated_url: str) -> None:
    row = wire_row(
        coin="we\\ird\tcoin\nname", px="0.0", sz="0.0000000001", startPosition="15105850.5999999996", fee="-0.1",
        crossed=False, dir="Long > Short", feeToken=None, twapId=5, cloid="0x" + "0" * 32, builderFee="1e-7",
        liquidation={"liquidatedUser": USER, "markPx": "1.5", "method": "market"}, unknown={"a": [1, 2.50, None]},
    )  # fmt: skip
    expected = {
        "user_address": USER, "coin": row["coin"], "side": "B", "px": "0.0", "sz": "0.0000000001",
        "start_position": "15105850.5999999996", "closed_pnl": "0.0", "fee": "-0.1", "dir": "Long > Short",
        "hash": row["hash"], "oid": row["oid"], "crossed": False, "fee_token": None, "tid": 1, "twap_id": 5,
        "cloid": "0x" + "0" * 32, "builder_fee": "0.0000001", "liquidation": row["liquidation"],
        "block_time": None, "seq": 0, "extra": {"unknown": row["unknown"]},
    }  # fmt: skip

    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            await writing.commit(chunk_of([row]))
        connection = await asyncpg.connect(migrated_url)
        try:
            found = await connection.fetchrow("SELECT *, (extract(epoch FROM time) * 1000)::bigint AS ms FROM fills")
        finally:
            await connection.close()
        assert found is not None
        told = dict(found)
        assert told.pop("ms") == row["time"]
        told.pop("time")
        for name in ("px", "sz", "start_position", "closed_pnl", "fee", "builder_fee"):
            told[name] = format(told[name], "f")
        for name in ("liquidation", "extra"):
            told[name] = json.loads(told[name])
        assert told == expected

    run(scenario())


def test_the_first_and_the_last_millisecond_there_is_can_be_stored(migrated_url: str) -> None:
    times = [0, 1, 1_700_000_000_001, 253_402_300_799_999]

    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            rows = [wire_row(moment, tid) for tid, moment in enumerate(times, 1)]
            assert (await writing.commit(chunk_of(rows))).inserted == 4
            assert (await writing.commit(chunk_of(rows))).already_there == 4
        query = "SELECT array_agg((extract(epoch FROM time) * 1000)::bigint ORDER BY time) FROM fills"
        assert await ask(migrated_url, query) == times

    run(scenario())


def test_equal_rows_are_not_rewritten_and_a_chunk_applied_twice_changes_nothing(migrated_url: str) -> None:
    rows = rows_of(50, px="1.50", unknown=1, liquidation={"markPx": "1", "method": "market"})

    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            chunk = chunk_of(rows, gaps=(Gap(1, 2, GapKind.RETENTION),), rejected=(Rejected("{}", "broken", 5),))
            first = await writing.commit(chunk)
            assert (first.inserted, first.rejected) == (50, 1)
            before = await ask(migrated_url, STAMP)
            second = await writing.commit(chunk)
            assert second == Committed(50, inserted=0, updated=0, already_there=50, refused=0, rejected=0)
            respelt = [{**row, "px": "1.5000"} for row in rows]
            assert (await writing.commit(chunk_of(respelt))).updated == 0
        assert await ask(migrated_url, STAMP) == before
        assert len(await stored(migrated_url)) == 50
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_gaps") == 1
        assert await ask(migrated_url, "SELECT count(*) FROM rejected_fills") == 1

    run(scenario())


def test_nothing_known_is_replaced_by_null_and_extra_is_merged(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            known: dict[str, Any] = {"twapId": 9, "cloid": "0x01", "feeToken": "HYPE", "builderFee": "0.3"}
            liquidation = {"markPx": "1", "method": "market"}
            await writing.commit(chunk_of([wire_row(**known, liquidation=liquidation, one="kept", two="old")]))
            await tell(migrated_url, "UPDATE fills SET block_time = '2024-01-01', seq = 5")
            poorer = {**wire_row(two="new", three=3), "feeToken": None}
            assert (await writing.commit(chunk_of([poorer]))).updated == 1
            assert (await writing.commit(chunk_of([wire_row(feeToken=None)]))).already_there == 1
        kept = (
            "SELECT concat_ws(' ', twap_id, cloid, fee_token, builder_fee, liquidation->>'markPx', block_time::date,"
            " seq, extra->>'one', extra->>'two', extra->>'three') FROM fills"
        )
        assert await ask(migrated_url, kept) == "9 0x01 HYPE 0.3 1 2024-01-01 5 kept new 3"

    run(scenario())


def test_one_fill_in_two_chunks_of_a_batch_is_one_row(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            committed = await writing.commit(chunk_of(rows_of(3)), chunk_of(rows_of(3, closedPnl="1")))
            assert (committed.received, committed.inserted) == (6, 3)
        assert len(await stored(migrated_url)) == 3

    run(scenario())


def test_a_page_of_new_rows_with_one_of_them_twice_is_stored_once(migrated_url: str) -> None:
    """So many that they are taken for new at a look, and inserted without a second one at each."""

    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            many = rows_of(FEW_ROWS_A_USER)
            done = await writing.commit(chunk_of(many), chunk_of(many[-1:]))
            assert (done.received, done.inserted, done.already_there) == (FEW_ROWS_A_USER + 1, FEW_ROWS_A_USER, 1)
            again = await writing.commit(chunk_of(rows_of(2 * FEW_ROWS_A_USER)))
            assert (again.inserted, again.already_there) == (FEW_ROWS_A_USER, FEW_ROWS_A_USER)
        assert await stored(migrated_url) == [(USER, tid) for tid in range(1, 2 * FEW_ROWS_A_USER + 1)]

    run(scenario())


def test_rows_that_somebody_else_adds_in_the_same_moment_are_there_already(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        other = await asyncpg.connect(migrated_url)
        try:
            async with a_store(migrated_url) as writing:
                theirs = other.transaction()
                await theirs.start()
                await other.execute(
                    "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
                    " SELECT $1, timestamptz 'epoch' + $2::bigint * interval '1 ms', coin, side, px, sz, oid, tid"
                    " FROM jsonb_to_record($3)"
                    " AS r (coin text, side text, px numeric, sz numeric, oid bigint, tid bigint)",
                    USER,
                    START + 3,
                    json.dumps(rows_of(1, 3)[0]),
                )
                commit = asyncio.create_task(writing.commit(chunk_of(rows_of(FEW_ROWS_A_USER))))
                await until(migrated_url, f"SELECT count(*) > 0 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'")
                await theirs.commit()
                done = await commit
                assert (done.inserted, done.updated + done.already_there) == (FEW_ROWS_A_USER - 1, 1)
        finally:
            await other.close()

    run(scenario())


def test_both_sides_of_a_trade_and_several_fills_with_tid_0_are_rows_of_their_own(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            dust = [wire_row(tid=0, coin=coin, dir="Spot Dust Conversion", side="A") for coin in ("@1", "@2")]
            trade = [wire_row(START + 5, 4), wire_row(START + 5, 4, side="A")]
            await writing.commit(chunk_of([*trade, *dust]), chunk_of([wire_row(START + 5, 4, side="A")], USERS[1]))
        assert len(await stored(migrated_url)) == 5

    run(scenario())


def test_a_batch_moves_each_user_as_its_last_chunk_says(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            await writing.commit(
                chunk_of(rows_of(3)),
                chunk_of(rows_of(2), USERS[1]),
                chunk_of(rows_of(2, 4)),
                Chunk(USERS[1], None, error="The exchange answers with status 500."),
                chunk_of([], cursor_ms=END, done=True),
                Chunk(USERS[2], END, done=True),
            )
            assert (writing.tally.users_done, writing.tally.users_failed) == (2, 1)
        read, failed, empty = [await progress(migrated_url, user) for user in USERS[:3]]
        assert (read["state"], read["cursor_ms"], read["fills_count"]) == ("completed", END, 5)
        assert read["oldest_fill_time"] == START + 1
        assert read["completed_at"] is not None
        assert (empty["state"], empty["fills_count"], empty["oldest_fill_time"]) == ("completed", 0, None)
        assert (failed["state"], failed["attempts"], failed["claimed_by"]) == ("failed", 1, None)
        assert (failed["cursor_ms"], failed["fills_count"]) == (START + 2, 2)
        assert failed["last_error"] == "The exchange answers with status 500."
        assert failed["failed_at"] is not None
        assert {row["state"] for row in [await progress(migrated_url, user) for user in USERS[3:]]} == {"claimed"}

    run(scenario())


# Who may commit


def test_a_worker_whose_row_is_gone_commits_nothing(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            await writing.commit(chunk_of(rows_of(1)))
            await tell(migrated_url, "DELETE FROM backfill_workers")
            with pytest.raises(ClaimLost, match="slept through its lease"):
                await writing.commit(chunk_of(rows_of(1, 2)))
        assert await stored(migrated_url) == [(USER, 1)]

    run(scenario())


def test_a_batch_with_a_user_of_somebody_else_is_not_applied_at_all(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url, USERS[:1])
        await a_worker_2(migrated_url)
        async with a_store(migrated_url) as writing:
            with pytest.raises(ClaimLost, match="no longer this worker's"):
                await writing.commit(chunk_of(rows_of(1)), chunk_of(rows_of(1), USERS[1]))
        assert await stored(migrated_url) == []
        assert (await progress(migrated_url))["cursor_ms"] == START

    async def a_worker_2(url: str) -> None:
        await tell(url, "INSERT INTO backfill_progress (user_address, claimed_by) VALUES ($1, 78)", USERS[1])

    run(scenario())


# Rows that the database refuses


def incompressible(length: int) -> str:
    return "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=length))


@pytest.mark.parametrize("bad", [[0], [3, 4, 12], list(range(13))])
def test_rows_the_database_refuses_are_kept_raw_and_stop_nothing(migrated_url: str, bad: list[int]) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        await tell(migrated_url, "ALTER TABLE fills ADD CONSTRAINT no_evil CHECK (dir <> 'Evil')")
        rows = [wire_row(START + n, n + 1, dir="Evil" if n in bad else "Buy") for n in range(13)]
        expected = [(USER, n + 1) for n in range(13) if n not in bad]
        async with a_store(migrated_url) as writing:
            first = await writing.commit(chunk_of(rows))
            assert (first.inserted, first.refused, first.rejected) == (len(expected), len(bad), len(bad))
            again = await writing.commit(chunk_of(rows))
            assert (again.already_there, again.refused, again.rejected) == (len(expected), len(bad), 0)
        assert await stored(migrated_url) == expected
        assert (await progress(migrated_url))["cursor_ms"] == START + 12
        connection = await asyncpg.connect(migrated_url)
        try:
            kept = await connection.fetch("SELECT raw, reason, time_ms FROM rejected_fills ORDER BY time_ms")
        finally:
            await connection.close()
        assert [row["time_ms"] for row in kept] == [START + n for n in bad]
        given = {name: value for name, value in rows[bad[0]].items() if value is not None}
        assert json.loads(kept[0]["raw"]) == given
        assert "no_evil" in kept[0]["reason"]

    run(scenario())


def test_a_coin_too_long_for_the_key_is_refused_alone(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            rows = [*rows_of(3), wire_row(START + 4, 4, coin=incompressible(9_000)), *rows_of(2, 5)]
            committed = await writing.commit(chunk_of(rows), chunk_of(rows_of(2), USERS[1]))
            assert (committed.inserted, committed.refused) == (7, 1)
        assert len(await stored(migrated_url)) == 7
        assert await ask(migrated_url, "SELECT reason FROM rejected_fills WHERE reason LIKE '%index row%'")

    run(scenario())


def test_a_value_no_jsonb_can_hold_is_refused_alone(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        monster = json.loads(json.dumps(wire_row(START + 4, 4)))
        body = json.dumps([*rows_of(3), monster]).replace('"twapId": null}]', '"twapId": null, "new": 1e200000}]')
        async with a_store(migrated_url) as writing:
            committed = await writing.commit(Chunk(USER, START + 4, decode_page(body.encode())))
            assert (committed.inserted, committed.refused) == (3, 1)
        assert len(await stored(migrated_url)) == 3

    run(scenario())


# Lines that break


@pytest.mark.parametrize(
    ("needle", "more", "fate"),
    [
        (b"UPDATE backfill_workers", 0, Fate.CUT_BEFORE),
        (b"COPY ", 0, Fate.CUT_BEFORE),
        (b"COPY ", 2_000, Fate.CUT_BEFORE),
        (b"COPY ", 20_000, Fate.CUT_AFTER),
        (b"INSERT INTO fills", 0, Fate.CUT_BEFORE),
        (b"INSERT INTO fills", 0, Fate.CUT_AFTER),
        (b"UPDATE backfill_progress", 0, Fate.CUT_AFTER),
        (b"COMMIT", 0, Fate.CUT_BEFORE),
        (b"COMMIT", 0, Fate.CUT_AFTER),
        (b"COMMIT", 0, Fate.ANSWER_LOST),
    ],
)
def test_wherever_the_line_is_cut_the_batch_is_applied_once(
    migrated_url: str, needle: bytes, more: int, fate: Fate
) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with Proxy(migrated_url) as proxy, a_store(proxy.url) as writing:
            await writing.commit(chunk_of(rows_of(5)))
            await writing.link.close()  # a new session sends each statement's text again
            reconnects = writing.link.reconnects + 1
            cut = proxy.once(needle, fate, more=more)
            # One new, one changed, one known user; one of them ends here, so that it is no longer the worker's.
            chunks = [
                chunk_of(rows_of(300, 4), done=True, cursor_ms=END, rejected=(Rejected("{}", "broken", 5),)),
                chunk_of(rows_of(20), USERS[1], gaps=(Gap(1, 2, GapKind.SATURATED),)),
                Chunk(USERS[2], None, error="refused"),
            ]
            committed = await writing.commit(*chunks)
            assert cut.fired.is_set()
            assert writing.link.reconnects == reconnects + 1
            assert committed == Committed(320, inserted=318, updated=0, already_there=2, refused=0, rejected=1)
            await writing.commit(chunk_of(rows_of(1, 21), USERS[1]))
            assert (writing.tally.inserted, writing.tally.received) == (324, 326)
        expected = [(USER, tid) for tid in range(1, 304)] + [(USERS[1], tid) for tid in range(1, 22)]
        assert await stored(migrated_url) == expected
        rows = [await progress(migrated_url, user) for user in USERS[:3]]
        assert [row["state"] for row in rows] == ["completed", "claimed", "failed"]
        assert rows[2]["attempts"] == 1
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_gaps") == 1
        assert await ask(migrated_url, "SELECT count(*) FROM rejected_fills") == 1

    run(scenario())


def test_answers_to_commit_lost_again_and_again_still_count_once(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with Proxy(migrated_url) as proxy, a_store(proxy.url) as writing:
            for number in range(6):
                proxy.once(b"COMMIT", Fate.CUT_BEFORE if number % 2 else Fate.ANSWER_LOST)
                assert (await writing.commit(chunk_of(rows_of(10, 1 + 10 * number)))).inserted == 10
            assert writing.tally.inserted == 60
        assert len(await stored(migrated_url)) == 60

    run(scenario())


SLOW_COMMIT = """
CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON backfill_workers DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION wait_for_the_test();
"""


def test_a_commit_that_takes_effect_after_the_line_was_cut_is_counted_once(migrated_url: str) -> None:
    """The server is still busy with COMMIT when the worker is back: it must not apply the batch again."""

    async def scenario() -> None:
        await a_worker(migrated_url)
        await tell(migrated_url, SLOW_COMMIT)
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with Proxy(migrated_url) as proxy, a_store(proxy.url) as writing:
                await writing.commit(chunk_of(rows_of(1)))
                first = await the_session(migrated_url)
                await blocker.execute("SELECT pg_advisory_lock(4711)")
                cut = proxy.once(b"COMMIT", Fate.CLIENT_CUT)
                ending = chunk_of(rows_of(5), USERS[1], done=True, cursor_ms=END)
                committing = asyncio.create_task(writing.commit(chunk_of(rows_of(10, 2)), ending))
                await cut.fired.wait()
                await until(migrated_url, ANOTHER_WAITS, first)
                await blocker.execute("SELECT pg_advisory_unlock(4711)")
                committed = await committing
                assert (committed.inserted, committed.already_there) == (15, 0)
        finally:
            await blocker.close()
        assert len(await stored(migrated_url)) == 16

    run(scenario())


def test_a_session_the_server_still_believes_in_does_not_block_its_own_worker(migrated_url: str) -> None:
    """A partition: the client is cut off in the middle of a batch, the server is not told and keeps the locks."""

    async def scenario() -> None:
        await a_worker(migrated_url)
        settings = impatient(database_timeout_seconds=1.0, database_patience_seconds=4.0)
        async with Proxy(migrated_url) as proxy, a_store(proxy.url, settings) as writing:
            proxy.once(b"UPDATE backfill_progress", Fate.CLIENT_CUT)  # the fills are inserted by then
            assert (await writing.commit(chunk_of(rows_of(10)))).inserted == 10

    run(scenario())


@pytest.mark.parametrize("end", ["cut", "terminated"])
def test_a_copy_under_back_pressure_does_not_hang_when_its_server_vanishes(migrated_url: str, end: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with Proxy(migrated_url) as proxy, a_store(proxy.url, impatient(database_timeout_seconds=30)) as writing:
            await writing.commit(chunk_of(rows_of(1)))
            stall = proxy.once(b"COPY ", Fate.STALL, more=1 << 20)
            long = rows_of(1_500, 2, dir="x" * 8_000)
            began = time.monotonic()
            committing = asyncio.create_task(writing.commit(chunk_of(long)))
            await stall.fired.wait()
            await asyncio.sleep(0.2)  # until the client's own buffers are full: nothing tells
            assert not committing.done()
            if end == "cut":
                proxy.cut()
            else:
                query = f"SELECT pg_terminate_backend(pid) FROM {OWN_SESSIONS} WHERE application_name = $1"
                await tell(migrated_url, query, *session_name(WORKER).values())
            assert (await committing).inserted == 1_500
            assert time.monotonic() - began < 8
        assert len(await stored(migrated_url)) == 1_501

    run(scenario())


def test_cancelled_in_the_middle_of_a_batch_nothing_is_applied_and_no_session_stays(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_store(migrated_url) as writing:
                await writing.commit(chunk_of(rows_of(1)))
                async with blocker.transaction():
                    await blocker.execute("SELECT FROM backfill_progress FOR UPDATE")
                    committing = asyncio.create_task(writing.commit(chunk_of(rows_of(10, 2))))
                    await until(migrated_url, f"SELECT ({WAITING}) = 1")
                    committing.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await committing
                sessions = f"SELECT count(*) = 0 FROM {OWN_SESSIONS} WHERE application_name = $1"
                await until(migrated_url, sessions, *session_name(WORKER).values())
                assert await stored(migrated_url) == [(USER, 1)]
                assert (await writing.commit(chunk_of(rows_of(10, 2)))).inserted == 10
        finally:
            await blocker.close()

    run(scenario())


def test_a_server_that_stays_away_is_reported_after_the_patience(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        settings = impatient(database_patience_seconds=0.5)
        async with Proxy(migrated_url) as proxy, a_store(proxy.url, settings) as writing:
            await writing.commit(chunk_of(rows_of(1)))
            await proxy.refuse()
            proxy.cut()
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="can't be reached"):
                await writing.commit(chunk_of(rows_of(1, 2)))
            assert 0.3 < time.monotonic() - began < 4
        assert await stored(migrated_url) == [(USER, 1)]

    run(scenario())


# Errors told apart


def test_a_statement_that_takes_too_long_is_given_up_and_repeated(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_store(migrated_url, impatient(database_timeout_seconds=0.4)) as writing:
                await writing.commit(chunk_of(rows_of(1)))
                first = await the_session(migrated_url)
                async with blocker.transaction():
                    await blocker.execute("SELECT FROM backfill_progress FOR UPDATE")
                    committing = asyncio.create_task(writing.commit(chunk_of(rows_of(10, 2))))
                    await until(migrated_url, ANOTHER_WAITS, first)
                assert (await committing).inserted == 10
        finally:
            await blocker.close()
        assert len(await stored(migrated_url)) == 11

    run(scenario())


def test_a_statement_that_never_ends_is_reported_with_the_setting_to_raise(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        blocker = await asyncpg.connect(migrated_url)
        settings = impatient(database_timeout_seconds=0.3, database_patience_seconds=0.5)
        try:
            async with a_store(migrated_url, settings) as writing, blocker.transaction():
                await blocker.execute("SELECT FROM backfill_progress FOR UPDATE")
                with pytest.raises(StoreUnavailable, match="VIGIL_DATABASE_TIMEOUT_SECONDS"):
                    await writing.commit(chunk_of(rows_of(10)))
        finally:
            await blocker.close()

    run(scenario())


def raising(sqlstate: str) -> str:
    """A trigger that fails every insertion with `sqlstate` while the test holds advisory lock 4712."""
    return f"""
        CREATE FUNCTION fail_meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NOT pg_try_advisory_xact_lock_shared(4712) THEN
                RAISE EXCEPTION 'as the test wishes' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fails BEFORE INSERT ON fills FOR EACH ROW EXECUTE FUNCTION fail_meanwhile();
    """


@pytest.mark.parametrize("sqlstate", ["53100", "40001", "57P01", "25006", "08006"])
def test_trouble_that_passes_is_waited_out_and_reported_when_it_stays(migrated_url: str, sqlstate: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        await tell(migrated_url, raising(sqlstate))
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_store(migrated_url, impatient(database_patience_seconds=0.3)) as writing:
                await blocker.execute("SELECT pg_advisory_lock(4712)")
                with pytest.raises(StoreUnavailable, match="as the test wishes"):
                    await writing.commit(chunk_of(rows_of(10)))
            async with a_store(migrated_url) as writing:
                failures = asyncio.create_task(writing.commit(chunk_of(rows_of(10))))
                await asyncio.sleep(0.3)  # some tries: nothing tells
                assert not failures.done()
                await blocker.execute("SELECT pg_advisory_unlock(4712)")
                assert (await failures).inserted == 10
        finally:
            await blocker.close()
        assert len(await stored(migrated_url)) == 10

    run(scenario())


def test_an_error_that_waiting_will_not_cure_is_raised_at_once(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        await tell(migrated_url, raising("P0001"))
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_store(migrated_url) as writing:
                await blocker.execute("SELECT pg_advisory_lock(4712)")
                began = time.monotonic()
                with pytest.raises(StoreError, match="as the test wishes") as caught:
                    await writing.commit(chunk_of(rows_of(10)))
                assert not isinstance(caught.value, StoreUnavailable)
                assert time.monotonic() - began < 2
                await blocker.execute("SELECT pg_advisory_unlock(4712)")
                assert (await writing.commit(chunk_of(rows_of(10)))).inserted == 10
                assert writing.link.reconnects == 1
        finally:
            await blocker.close()

    run(scenario())


def test_a_read_only_database_is_waited_out(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        name = await ask(migrated_url, "SELECT current_database()")
        await tell(migrated_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with a_store(migrated_url, impatient(database_patience_seconds=0.3)) as writing:
            with pytest.raises(StoreUnavailable, match="read-only"):
                await writing.commit(chunk_of(rows_of(10)))
        async with a_store(migrated_url) as writing:
            committing = asyncio.create_task(writing.commit(chunk_of(rows_of(10))))
            await asyncio.sleep(0.3)
            assert not committing.done()
            writable = "BEGIN READ WRITE; ALTER DATABASE {} RESET default_transaction_read_only; COMMIT"
            await tell(migrated_url, writable.format(name))
            assert (await committing).inserted == 10
        assert len(await stored(migrated_url)) == 10

    run(scenario())


def test_a_deadlock_is_retried_and_the_batch_applied_once(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        other = await asyncpg.connect(migrated_url)
        try:
            async with a_store(migrated_url) as writing:
                await writing.commit(chunk_of(rows_of(3)))
                await other.execute("SET deadlock_timeout = '1h'")  # the store's session finds it
                async with other.transaction():
                    await other.execute("SELECT FROM backfill_progress WHERE user_address = $1 FOR UPDATE", USER)
                    committing = asyncio.create_task(writing.commit(chunk_of(rows_of(3, closedPnl="1"))))
                    await until(migrated_url, f"SELECT ({WAITING}) = 1")
                    await other.execute("UPDATE fills SET closed_pnl = 2 WHERE tid = 1")  # a cycle
                committed = await committing
                assert committed.updated == 3
        finally:
            await other.close()
        assert await ask(migrated_url, "SELECT sum(closed_pnl) FROM fills") == 3

    run(scenario())


# Tables of others


def test_a_column_that_would_refuse_every_row_is_found_before_the_run(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, "ALTER TABLE fills ADD COLUMN block_number bigint")
        await tell(migrated_url, "ALTER TABLE fills ALTER COLUMN block_number SET NOT NULL")
        connection = await asyncpg.connect(migrated_url)
        try:
            with pytest.raises(SchemaMismatch, match="block_number"):
                await check_fills_table(connection)
        finally:
            await connection.close()

    run(scenario())


def test_columns_of_others_that_need_no_value_are_welcome(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(
            migrated_url,
            "ALTER TABLE fills ADD COLUMN block_number bigint, ADD COLUMN source text NOT NULL DEFAULT 'archive'",
        )
        await a_worker(migrated_url)
        connection = await asyncpg.connect(migrated_url)
        try:
            await check_fills_table(connection)
        finally:
            await connection.close()
        async with a_store(migrated_url) as writing:
            assert (await writing.commit(chunk_of(rows_of(3)))).inserted == 3

    run(scenario())


def test_connecting_without_the_right_to_is_one_sentence(migrated_url: str) -> None:
    async def scenario() -> None:
        name = await ask(migrated_url, "SELECT current_database()")
        role = f"{name}_stranger"
        await tell(
            migrated_url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
        )
        try:
            async with Proxy(migrated_url) as proxy:
                parts = urlsplit(proxy.url)
                stranger = urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}"))
                with pytest.raises(UsageError, match="does not let us in"):
                    await connect(stranger)
        finally:
            await tell(migrated_url, f"DROP ROLE {role}")

    run(scenario())


def test_something_at_the_address_that_is_no_postgres_is_one_sentence() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(VigilError) as caught:
                await connect(f"postgresql://somebody:hunter2@127.0.0.1:{port}/fills?sslmode=disable")
            assert "hunter2" not in str(caught.value)
        finally:
            server.close()
            await server.wait_closed()

    run(scenario())


def test_a_connection_that_can_not_be_prepared_is_closed(migrated_url: str) -> None:
    connections = []

    async def refuse(connection: Any) -> None:
        connections.append(connection)
        await connection.execute("SELECT no_such_function()")

    async def scenario() -> None:
        link = Link(migrated_url, impatient(), prepare=refuse, server_settings=session_name(WORKER))
        with pytest.raises(StoreError, match="no_such_function"):
            await link.run(prepare_staging)
        await link.close()
        try:
            assert [connection.is_closed() for connection in connections] == [True]
        finally:
            connections.pop().terminate()

    run(scenario())


# TimescaleDB


@pytest.mark.timescaledb
def test_rows_in_compressed_chunks_are_added_known_and_changed_like_others(migrated_url: str) -> None:
    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url) as writing:
            await writing.commit(chunk_of(rows_of(2_000)))
            await tell(
                migrated_url,
                "ALTER TABLE fills SET (timescaledb.compress, timescaledb.compress_segmentby = 'user_address',"
                " timescaledb.compress_orderby = 'time, coin, oid, tid, side')",
            )
            await tell(migrated_url, "SELECT compress_chunk(c) FROM show_chunks('fills') AS c")
            # Rows that are known must not be unpacked: a chunk may hold more than one statement may unpack.
            name = await ask(migrated_url, "SELECT current_database()")
            limit = f"ALTER DATABASE {name} SET timescaledb.max_tuples_decompressed_per_dml_transaction = 1500"
            await tell(migrated_url, limit)
            await writing.link.close()
            known = await writing.commit(chunk_of(rows_of(2_000)))
            assert (known.already_there, known.updated) == (2_000, 0)
            await tell(migrated_url, limit.replace("1500", "0"))
            await writing.link.close()
            some = await writing.commit(chunk_of(rows_of(3, 1_999, fee="9")))
            assert (some.inserted, some.updated) == (1, 2)
        assert len(await stored(migrated_url)) == 2_001
        assert await ask(migrated_url, "SELECT sum(fee) FROM fills WHERE fee = 9") == 27

    run(scenario())


@pytest.mark.timescaledb
def test_a_batch_that_would_unpack_too_much_is_refused_with_the_reason_and_not_waited_for(migrated_url: str) -> None:
    """53400 is in the class of a full disk, but no waiting cures it."""

    async def scenario() -> None:
        await a_worker(migrated_url)
        async with a_store(migrated_url, impatient(database_patience_seconds=6.0)) as writing:
            await writing.commit(chunk_of(rows_of(2_000)))
            await tell(
                migrated_url,
                "ALTER TABLE fills SET (timescaledb.compress, timescaledb.compress_segmentby = 'user_address',"
                " timescaledb.compress_orderby = 'time, coin, oid, tid, side')",
            )
            await tell(migrated_url, "SELECT compress_chunk(c) FROM show_chunks('fills') AS c")
            name = await ask(migrated_url, "SELECT current_database()")
            limit = f"ALTER DATABASE {name} SET timescaledb.max_tuples_decompressed_per_dml_transaction = 10"
            await tell(migrated_url, limit)
            await writing.link.close()
            changed = chunk_of(rows_of(2_000, fee="9"))
            (outcome,) = await asyncio.gather(writing.commit(changed), return_exceptions=True)
            assert not isinstance(outcome, StoreUnavailable), outcome  # which it would be after the patience

    run(scenario())
