"""Verifying and repairing, over a simulator and a real database: each sign, and a table mended to the row."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.kit.backfill import PERIOD_SECONDS, WINDOW, ask, backfill, compared, everybody, settings_for, small, tell
from tests.kit.loop import run
from vigil import claims as claims_module
from vigil import repair as repair_module
from vigil.audit import Audit
from vigil.differences import upper_bound
from vigil.errors import StoreError
from vigil.repair import Repair
from vigil.simulator import FaultPlan, Simulator, SimulatorConfig, UserFault
from vigil.windows import Account, Choice, Selection, Summary

ALL = Selection(Choice.ALL)
SUSPECT = Selection(Choice.SUSPECT)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in seconds, here takes a tenth."""
    monkeypatch.setattr(claims_module, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(claims_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(claims_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(repair_module, "PATIENCE_SECONDS", 1.0)


@dataclass
class Heard:
    """What an audit told: of each user, and in sum."""

    users: dict[str, Account]
    summary: Summary

    def __getitem__(self, user: str) -> Account:
        return self.users[user]

    @property
    def signs(self) -> dict[str, str]:
        """Of the users that are not simply equal."""
        return {user: account.signs for user, account in self.users.items() if account.signs != "="}


async def audited(
    exchange: Simulator, url: str, selection: Selection, kind: type[Audit] = Audit, **overrides: Any
) -> Heard:
    users: dict[str, Account] = {}

    def hear(account: Account) -> None:
        assert account.user not in users, "told twice"
        users[account.user] = account

    summary = await kind(settings_for(exchange, **overrides), url, selection, hear).execute()
    return Heard(users, summary)


async def repaired(exchange: Simulator, url: str, selection: Selection, **overrides: Any) -> Heard:
    return await audited(exchange, url, selection, Repair, **overrides)


async def snapshot(url: str) -> tuple[Any, ...]:
    """Everything that an audit must leave as it is: fills, progress, gaps, verdicts, to the row version."""
    tables = ("fills", "backfill_progress", "backfill_gaps", "backfill_verdicts", "rejected_fills")
    stamp = "SELECT md5(coalesce(string_agg(t::text || xmin::text, ',' ORDER BY t::text), '')) FROM {} AS t"
    return tuple([await ask(url, stamp.format(table)) for table in tables])


async def row_of(url: str, user: str, place: int) -> asyncpg.Record:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT * FROM fills WHERE user_address = $1 ORDER BY time, seq OFFSET $2 LIMIT 1", user, place
        )
    finally:
        await connection.close()
    assert row is not None
    return row


KEY = "user_address = $1 AND time = $2 AND coin = $3 AND oid = $4 AND tid = $5 AND side = $6"


def key_of(row: asyncpg.Record) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("user_address", "time", "coin", "oid", "tid", "side"))


async def delete(url: str, user: str, *places: int) -> None:
    rows = [await row_of(url, user, place) for place in places]
    for row in rows:
        await tell(url, f"DELETE FROM fills WHERE {KEY}", *key_of(row))


async def add_stranger(url: str, user: str, place: int, *, archived: bool = False) -> None:
    """A row that the exchange never had, at the time of the row at `place`, known from an archive or not."""
    row = await row_of(url, user, place)
    await tell(
        url,
        "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid, block_time)"
        " VALUES ($1, $2, 'BTC', 'B', 1, 1, 7, 7, CASE WHEN $3 THEN now() END)",
        user,
        row["time"],
        archived,
    )


# -- verify -----------------------------------------------------------------------------------------


def test_a_table_that_is_the_truth_is_equal_in_every_window_and_nothing_is_changed(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(30, 41, lengths={0: 4_500, 1: 0, 2: 1})) as exchange:
            await backfill(exchange, migrated_url)
            before = await snapshot(migrated_url)
            heard = await audited(exchange, migrated_url, ALL)
            assert await snapshot(migrated_url) == before
            assert heard.signs == {}
            assert len(heard.users) == 30
            summary = heard.summary
            assert summary.equal == await ask(migrated_url, "SELECT count(*) FROM fills")
            assert summary.windows == summary.windows_known > 30
            assert (summary.differing_windows, summary.out_of_reach, summary.exit_code) == (0, 0, 0)
            assert exchange.stats.throttled == 0
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_workers") == 0

    run(scenario())


def test_each_way_to_differ_has_its_sign(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(6, 42, lengths=dict.fromkeys(range(6), 300))) as exchange:
            await backfill(exchange, migrated_url)
            lacking, changed, stranger, archive, every, _ = everybody(exchange)
            await delete(migrated_url, lacking, 10, 11)
            await tell(
                migrated_url,
                f"UPDATE fills SET px = px * 1.00000001, dir = NULL WHERE {KEY}",
                *key_of(await row_of(migrated_url, changed, 20)),
            )
            await add_stranger(migrated_url, stranger, 30)
            await add_stranger(migrated_url, archive, 30, archived=True)
            await delete(migrated_url, every, 5)
            await add_stranger(migrated_url, every, 40)
            await tell(
                migrated_url,
                f"UPDATE fills SET crossed = NOT crossed WHERE {KEY}",
                *key_of(await row_of(migrated_url, every, 50)),
            )
            heard = await audited(exchange, migrated_url, ALL)
            assert heard.signs == {lacking: "-", changed: "*", stranger: "+", archive: "+", every: "-+*"}
            left = await ask(migrated_url, "SELECT count(*) FROM fills WHERE user_address = $1", lacking)
            assert (heard[lacking].missing, heard[lacking].equal) == (2, left)
            assert heard[changed].columns == {"px": 1, "dir": 1}
            assert (heard[stranger].extra_from_archives, heard[archive].extra_from_archives) == (0, 1)
            told = heard[every].spans[0]
            assert (told["missing"], told["extra"], told["differing"]) == (1, 1, 1)
            assert told["first_extra"]["oid"] == 7
            assert (heard.summary.differing_windows, heard.summary.exit_code) == (5, 4)

    run(scenario())


def test_what_only_archives_tell_is_no_difference(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 43, lengths={0: 200})) as exchange:
            await backfill(exchange, migrated_url)
            await tell(
                migrated_url,
                "UPDATE fills SET block_time = time, seq = NULL,"
                " extra = coalesce(extra, '{}') || '{\"priorityGas\": 1.5}',"
                " twap_id = CASE WHEN tid % 2 = 0 THEN 77 END, builder_fee = coalesce(builder_fee, 0.5)",
            )
            heard = await audited(exchange, migrated_url, ALL)
            assert heard.signs == {}
            assert heard.summary.equal == await ask(migrated_url, "SELECT count(*) FROM fills") > 50

    run(scenario())


def test_rows_that_retention_took_since_are_out_of_reach_and_no_difference(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(2, 44, lengths={0: 6_000, 1: 3_000})) as exchange:
            long, short = everybody(exchange)
            await backfill(exchange, migrated_url)
            held = await ask(migrated_url, "SELECT count(*) FROM fills WHERE user_address = $1", long)
        async with Simulator(small(2, 44, lengths={0: 6_000, 1: 3_000}, retention_rows=3_000)) as exchange:
            within = len(exchange.truth(long, WINDOW.start_ms, WINDOW.end_ms - 1))
            assert within < held
            heard = await audited(exchange, migrated_url, ALL)
            assert heard.signs == {}
            assert heard[long].out_of_reach == pytest.approx(held - within, abs=120)  # one millisecond may be cut
            assert heard[long].unreachable_windows >= 1
            assert heard[short].out_of_reach == 0
            assert heard.summary.exit_code == 0
            await delete(migrated_url, long, held - 10)
            await add_stranger(migrated_url, long, held - 20)
            heard = await audited(exchange, migrated_url, ALL)
            assert heard[long].signs == "-+"
            assert (heard[long].missing, heard[long].extra) == (1, 1)

    run(scenario())


def test_retention_that_slides_under_the_audit_makes_no_difference(migrated_url: str) -> None:
    async def scenario() -> None:
        config = SimulatorConfig(
            users=1, seed=45, lengths={0: 9_000}, retention_rows=9_000, latency_seconds=(0.05, 0.05),
            moving=1.0, moving_fills_per_hour=9_000_000.0, weight_per_minute=0, period_seconds=0.5,
        )  # fmt: skip
        async with Simulator(config) as exchange:
            await backfill(exchange, migrated_url)
            heard = await audited(exchange, migrated_url, ALL)
            assert heard.signs == {}
            assert heard.summary.out_of_reach > 0

    run(scenario())


def test_twap_slices_are_set_against_their_own_list(migrated_url: str, real_fills: Path) -> None:
    async def scenario() -> None:
        config = SimulatorConfig(
            users=0, replay=real_fills, replay_shift_end_ms=WINDOW.end_ms, period_seconds=PERIOD_SECONDS
        )
        async with Simulator(config) as exchange:
            await backfill(exchange, migrated_url)
            heard = await audited(exchange, migrated_url, ALL)
            assert heard.signs == {}
            assert heard.summary.equal == await ask(migrated_url, "SELECT count(*) FROM fills")
            assert await ask(migrated_url, "SELECT count(*) FROM fills WHERE twap_id IS NOT NULL") == 2_000
            await tell(
                migrated_url,
                "DELETE FROM fills WHERE (user_address, tid) IN ("
                " (SELECT user_address, tid FROM fills WHERE twap_id IS NOT NULL ORDER BY tid LIMIT 3)"
                ")",
            )
            heard = await audited(exchange, migrated_url, ALL)
            assert [account.missing for account in heard.users.values() if account.missing] == [3]
            assert {span["list"] for account in heard.users.values() for span in account.spans} == {"slices"}
            mended = await repaired(exchange, migrated_url, ALL)
            assert (mended.summary.added, mended.summary.exit_code) == (3, 0)
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_the_sample_is_the_same_for_a_seed_and_its_bound_is_stated(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(40, 46, lengths={0: 5_000})) as exchange:
            await backfill(exchange, migrated_url)
            first = await audited(exchange, migrated_url, Selection(windows=20, seed=1))
            again = await audited(exchange, migrated_url, Selection(windows=20, seed=1))
            other = await audited(exchange, migrated_url, Selection(windows=20, seed=2))
            assert first.users.keys() == again.users.keys() != other.users.keys()
            assert first.summary.windows == 20
            assert first.summary.confidence == "0 of 20 windows differ: below 14 % at 95 %"
            everything = await audited(exchange, migrated_url, Selection(windows=1_000))
            assert everything.summary.confidence == (
                f"0 of {everything.summary.windows_known} windows differ: all there are within reach"
            )

    run(scenario())


def test_users_can_be_named_and_those_not_read_are_said_to_be_so(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(4, 47)) as exchange:
            read, pending, *_ = everybody(exchange)
            unknown = "0x" + "ee" * 20
            await backfill(exchange, migrated_url, users=[read])
            await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ($1)", pending)
            heard = await audited(exchange, migrated_url, Selection(Choice.ALL, users=[unknown, pending, read]))
            assert heard.signs == {unknown: "!", pending: "!"}
            assert heard[unknown].error == "not known"
            assert heard[pending].error == "pending, not read to the end"
            assert (heard[read].signs, heard.summary.exit_code) == ("=", 3)

    run(scenario())


def test_a_user_the_exchange_does_not_answer_for_counts_against_the_bound(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(40, 48)) as exchange:
            await backfill(exchange, migrated_url)
            victim = everybody(exchange)[3]
        config = small(40, 48, faults=FaultPlan(per_user={victim: UserFault("500")}))
        async with Simulator(config) as exchange:
            heard = await audited(exchange, migrated_url, Selection(windows=39, seed=1), request_tries=2)
            if victim not in heard.users:  # 39 of 40 or more were drawn
                heard = await audited(exchange, migrated_url, Selection(windows=39, seed=2), request_tries=2)
            assert heard[victim].signs == "!"
            summary = heard.summary
            assert (summary.unanswered_windows, summary.windows, summary.exit_code) == (1, 38, 3)
            assert summary.bound == pytest.approx(upper_bound(1, 39))
            assert summary.confidence.endswith("the 1 not answered counted as differing")

    run(scenario())


# -- repair -----------------------------------------------------------------------------------------


def test_repair_makes_the_table_the_truth_again_with_one_request_a_window(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(12, 51, lengths={0: 4_500, 1: 800})) as exchange:
            await backfill(exchange, migrated_url)
            times = (
                "SELECT string_agg(user_address || completed_at::text || cursor_ms, ',' ORDER BY user_address) FROM {}"
            )
            read_at = await ask(migrated_url, times.format("backfill_progress"))
            long, other, *_ = everybody(exchange)
            await tell(migrated_url, "DELETE FROM fills WHERE user_address = $1 AND tid % 3 = 0", long)
            await tell(migrated_url, "UPDATE fills SET sz = sz + 1, fee = NULL WHERE user_address = $1", other)
            asked = exchange.stats.requests
            mended = await repaired(exchange, migrated_url, ALL)
            assert mended[long].added > 500
            assert (mended[other].added, mended[other].signs) == (0, "*")
            assert mended[other].corrected == await ask(
                migrated_url, "SELECT count(*) FROM fills WHERE user_address = $1", other
            )
            assert mended.summary.exit_code == 0
            assert exchange.stats.requests - asked <= 12 + 3  # a page more for the long one's every 2000 rows
            found = await compared(exchange, migrated_url)  # fills_count as well
            assert found.equal, found.examples
            assert await ask(migrated_url, times.format("backfill_progress")) == read_at
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE state <> 'completed'") == 0
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE judged_at IS NULL") == 0
            before = await snapshot(migrated_url)
            assert (await audited(exchange, migrated_url, ALL)).signs == {}
            assert await snapshot(migrated_url) == before
            again = await backfill(exchange, migrated_url)
            assert again.requests == 0

    run(scenario())


def test_suspect_repair_asks_only_around_what_the_chain_lacks(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(4, 52, lengths=dict.fromkeys(range(4), 2_500))) as exchange:
            await backfill(exchange, migrated_url)
            victim = everybody(exchange)[2]
            places = "SELECT seq_no FROM (SELECT *, row_number() OVER (ORDER BY time, seq) - 1 AS seq_no FROM fills"
            perp = f"{places} WHERE user_address = $1) AS f WHERE coin = 'BTC' ORDER BY seq_no OFFSET 20 LIMIT 1"
            await delete(migrated_url, victim, await ask(migrated_url, perp, victim))
            await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL")
            await backfill(exchange, migrated_url)  # reads nothing, judges all
            judged = "SELECT verdict::text FROM backfill_progress WHERE user_address = $1"
            assert await ask(migrated_url, judged, victim) == "gap"
            asked, weight = exchange.stats.requests, exchange.stats.weight_spent
            found = await audited(exchange, migrated_url, SUSPECT)
            assert found[victim].signs == "-"
            assert "nothing follows for others" in found.summary.confidence
            mended = await repaired(exchange, migrated_url, SUSPECT)
            assert mended[victim].added == 1
            assert await ask(migrated_url, judged, victim) != "gap"
            looked = len(found.users) + len(mended.users)
            assert exchange.stats.requests - asked <= 4 * looked
            assert exchange.stats.weight_spent - weight < 200 * looked
            everything = await compared(exchange, migrated_url)
            assert everything.equal, everything.examples

    run(scenario())


def test_a_gap_that_can_be_read_again_is_closed_and_one_of_retention_stays(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(2, 53, lengths={0: 3_000, 1: 3_000})) as exchange:
            await backfill(exchange, migrated_url)
            mendable, lost = everybody(exchange)
            for user, first in ((mendable, 1_000), (lost, 50)):
                one, after = [await row_of(migrated_url, user, place) for place in (first, first + 60)]
                await tell(
                    migrated_url,
                    "INSERT INTO backfill_gaps (user_address, from_ms, to_ms, kind)"
                    " SELECT $1, extract(epoch FROM $2::timestamptz) * 1000, extract(epoch FROM $3::timestamptz) * 1000"
                    ", 'retention'",
                    user,
                    one["time"],
                    after["time"],
                )
                await tell(
                    migrated_url,
                    "DELETE FROM fills WHERE user_address = $1 AND time > $2 AND time < $3",
                    user,
                    one["time"],
                    after["time"],
                )
            await tell(migrated_url, "UPDATE backfill_progress SET judged_at = NULL")  # as it is where a walk met a gap
        retained = small(2, 53, lengths={0: 3_000, 1: 3_000}, retention_rows=2_800)
        async with Simulator(retained) as exchange:
            mended = await repaired(exchange, migrated_url, SUSPECT)
            assert mended[mendable].added > 0
            assert (mended[mendable].gaps_closed, mended[mendable].gaps_left) == (1, [])
            assert (mended[lost].gaps_closed, len(mended[lost].gaps_left)) == (0, 1)
            assert mended.summary.exit_code == 4
            gaps = "SELECT string_agg(user_address, ',') FROM backfill_gaps"
            assert await ask(migrated_url, gaps) == lost
            rows = "SELECT count(*) FROM fills WHERE user_address = $1"
            truth = exchange.truth(mendable, WINDOW.start_ms, WINDOW.end_ms - 1)
            assert await ask(migrated_url, rows, mendable) >= len(truth)
            verdicts = "SELECT string_agg(verdict::text, ',' ORDER BY verdict) FROM backfill_progress"
            assert "gap" in await ask(migrated_url, verdicts)

    run(scenario())


def test_a_millisecond_no_page_can_hold_stays_a_gap(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 54, lengths={0: 5_000}, saturated_users=(0,))) as exchange:
            await backfill(exchange, migrated_url)
            mended = await repaired(exchange, migrated_url, SUSPECT)
            (account,) = mended.users.values()
            assert (account.added, account.gaps_closed, len(account.gaps_left)) == (0, 0, 1)
            assert mended.summary.exit_code == 4

    run(scenario())


def test_strangers_are_left_alone_and_said(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 55, lengths={0: 100})) as exchange:
            await backfill(exchange, migrated_url)
            (user,) = everybody(exchange)
            await add_stranger(migrated_url, user, 50)
            before = await snapshot(migrated_url)
            mended = await repaired(exchange, migrated_url, ALL)
            assert (mended[user].signs, mended.summary.extra, mended.summary.exit_code) == ("+", 1, 4)
            assert (await snapshot(migrated_url))[0] == before[0]

    run(scenario())


def test_a_user_in_other_hands_is_not_repaired_and_left_to_them(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(2, 56, lengths={0: 100, 1: 100})) as exchange:
            await backfill(exchange, migrated_url)
            taken, free = everybody(exchange)
            await delete(migrated_url, taken, 3)
            await delete(migrated_url, free, 3)
            await tell(
                migrated_url,
                "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at) VALUES (5, 'x', 1, 'infinity')",
            )
            claim = (
                "UPDATE backfill_progress SET completed = false, claimed_by = 5, cursor_ms = window_end_ms - 1"
                " WHERE user_address = $1"
            )
            await tell(migrated_url, claim, taken)
            holder = await asyncpg.connect(migrated_url)  # alive: it holds its lock
            await holder.execute("SELECT pg_advisory_lock(5)")
            try:
                mended = await repaired(exchange, migrated_url, ALL)
            finally:
                await holder.close()
            assert mended[free].added == 1
            assert (mended[taken].error, mended.summary.exit_code) == ("another worker is reading it", 3)
            assert (
                await ask(migrated_url, "SELECT claimed_by FROM backfill_progress WHERE user_address = $1", taken) == 5
            )

            mended = await repaired(exchange, migrated_url, ALL)  # by now its worker is dead
            assert (mended[taken].added, mended.summary.exit_code) == (1, 0)
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_a_repair_that_fails_in_its_commit_leaves_the_user_as_it_was(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 57, lengths={0: 100})) as exchange:
            await backfill(exchange, migrated_url)
            (user,) = everybody(exchange)
            await delete(migrated_url, user, 3)
            columns = (
                "SELECT (completed, completed_at, cursor_ms, fills_count, claimed_by)::text FROM backfill_progress"
            )
            before = await ask(migrated_url, columns)
            await tell(migrated_url, "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE; END'")
            await tell(migrated_url, "CREATE TRIGGER no BEFORE INSERT ON fills EXECUTE FUNCTION no()")
            with pytest.raises(StoreError):
                await repaired(exchange, migrated_url, ALL)
            assert (await ask(migrated_url, columns)).replace(",99,", ",100,") == before
            await tell(migrated_url, "DROP TRIGGER no ON fills")
            assert (await repaired(exchange, migrated_url, ALL)).summary.added == 1
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            assert await ask(migrated_url, columns) == before

    run(scenario())


def test_a_row_the_database_refused_is_known_and_stored_once_it_takes_it(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 59, lengths={0: 100})) as exchange:
            (user,) = everybody(exchange)
            oid = exchange.truth(user, WINDOW.start_ms, WINDOW.end_ms - 1)[7]["oid"]
            await tell(migrated_url, f"ALTER TABLE fills ADD CONSTRAINT odd CHECK (oid <> {oid})")
            await backfill(exchange, migrated_url)
            refused = await ask(migrated_url, "SELECT count(*) FROM rejected_fills")
            assert refused >= 1
            heard = await audited(exchange, migrated_url, ALL)
            assert (heard[user].signs, heard[user].rejected, heard.summary.exit_code) == ("=", refused, 0)
            mended = await repaired(exchange, migrated_url, SUSPECT)
            assert (mended[user].added, mended[user].refused, mended.summary.exit_code) == (0, 0, 0)
            assert await ask(migrated_url, "SELECT verdict::text FROM backfill_progress") == "gap"
            await tell(migrated_url, "ALTER TABLE fills DROP CONSTRAINT odd")
            mended = await repaired(exchange, migrated_url, SUSPECT)
            assert (mended[user].added, mended.summary.exit_code) == (refused, 0)
            assert await ask(migrated_url, "SELECT count(*) FROM rejected_fills") == 0
            assert await ask(migrated_url, "SELECT verdict::text FROM backfill_progress") != "gap"
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_a_row_that_can_not_be_understood_is_recorded_by_a_repair(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 60, lengths={0: 100})) as exchange:
            await backfill(exchange, migrated_url)
            (user,) = everybody(exchange)
            rows = exchange.population.history(0).rows  # the simulator's own, from which it serves
            rows[9] = rows[9].replace('"px":"', '"px":"x')
            await delete(migrated_url, user, 9)
            heard = await audited(exchange, migrated_url, ALL)
            assert (heard[user].signs, heard[user].missing) == ("-", 1)
            mended = await repaired(exchange, migrated_url, ALL)
            assert (mended[user].added, mended[user].refused, mended.summary.exit_code) == (0, 1, 4)
            assert await ask(migrated_url, "SELECT count(*) FROM rejected_fills") == 1
            heard = await audited(exchange, migrated_url, ALL)
            assert (heard[user].signs, heard[user].rejected) == ("=", 1)

    run(scenario())


# -- the lifetime volume ------------------------------------------------------------------------------


def test_the_simulator_counts_the_volume_of_the_whole_history(real_fills: Path) -> None:
    async def scenario() -> None:
        config = small(2, 58, lengths={0: 500, 1: 0}, retention_rows=100, replay=real_fills)
        async with Simulator(config) as exchange, aiohttp.ClientSession() as session:

            async def told(user: str) -> Any:
                async with session.post(exchange.url, json={"type": "userRateLimit", "user": user}) as response:
                    assert response.status == 200
                    return await response.json()

            trader, nobody = everybody(exchange)[:2]
            rows = exchange.population.fills(0)
            everything = sum(Decimal(row["px"]) * Decimal(row["sz"]) for row in rows)
            answer = await told(trader)
            assert Decimal(answer.pop("cumVlm")) == everything > 0
            assert answer == {"nRequestsUsed": 1, "nRequestsCap": 10_000}
            assert Decimal((await told(nobody))["cumVlm"]) == 0
            recorded = next(iter(exchange.recording.users))
            kept = exchange.truth(recorded, 0, None)
            slices = [row["fill"] for row in exchange.twap_truth(recorded, 0, None)]
            sum_of_kept = sum(Decimal(row["px"]) * Decimal(row["sz"]) for row in [*kept, *slices])
            assert Decimal((await told(recorded))["cumVlm"]) == sum_of_kept
            assert exchange.stats.weight_spent == 60
            async with session.post(exchange.url, json={"type": "userRateLimit", "user": "0x1"}) as response:
                assert response.status == 422

    run(scenario())
