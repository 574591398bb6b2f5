"""The estimate over a real database: what it counts, what it writes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.kit.backfill import ask, tell
from tests.kit.loop import run
from vigil import claims as claims_module
from vigil import urgency as urgency_module
from vigil.address import shard_of
from vigil.claims import EVERYBODY, Claims, Shard, Window
from vigil.db import Link, sql
from vigil.errors import StoreUnavailable
from vigil.settings import Settings
from vigil.urgency import HOUR_MS, REACH_ROWS, Estimate, Trades, Urgency, estimate

END_MS = 1_753_574_400_000
DAY_MS, WEEK_MS = 24 * HOUR_MS, 168 * HOUR_MS
NEWEST_MS = END_MS + 60 * DAY_MS
NOW_MS = NEWEST_MS + 2 * HOUR_MS
WINDOW = Window(END_MS - 365 * DAY_MS, END_MS)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

EVERY_ROW = "SELECT string_agg(xmin::text || ctid::text, ',' ORDER BY user_address) FROM backfill_progress"
ORDERED = "SELECT array_agg(user_address ORDER BY urgency DESC, user_address) FROM backfill_progress WHERE urgency > 0"


def addresses(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return sorted(f"0x{rng.getrandbits(160):040x}" for _ in range(count))


def a_settings() -> Settings:
    given: dict[str, Any] = {"_env_file": None}
    return Settings(**given)


def a_link(url: str) -> Link:
    return Link(url, a_settings())


@asynccontextmanager
async def an_urgency(url: str, *, now_ms: int = NOW_MS, **options: Any) -> AsyncIterator[Urgency]:
    link = a_link(url)
    try:
        yield Urgency(link, END_MS, now_ms=lambda: now_ms, **options)
    finally:
        await link.close()


async def estimated(url: str, **options: Any) -> dict[str, Estimate]:
    """One estimate by a worker of its own."""
    async with an_urgency(url, **options) as urgency:
        return await urgency.estimate()


async def known(url: str, users: Sequence[str]) -> None:
    await tell(url, "INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[])", list(users))


async def traded(url: str, user: str, times_ms: Sequence[int]) -> None:
    """Fills of the user at these times."""
    statement = (
        "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
        " SELECT $1, told.time, 'BTC', 'B', 1, 1, told.number, 1 + (SELECT count(*) FROM fills WHERE user_address = $1)"
        " FROM unnest($2::timestamptz[]) WITH ORDINALITY AS told (time, number)"
    )
    await tell(url, statement, user, [EPOCH + timedelta(milliseconds=ms) for ms in times_ms])


async def trading(url: str, rows: dict[str, int]) -> None:
    """Users that have traded so many rows within the last day, the newest at the same moment."""
    await known(url, list(rows))
    for user, count in rows.items():
        await traded(url, user, [NEWEST_MS - i * DAY_MS // (count + 1) for i in range(count)])


# What is counted


def test_what_is_counted_is_what_python_counts(migrated_url: str) -> None:
    async def scenario() -> None:
        rng = random.Random(3)
        users = addresses(40)
        await known(migrated_url, users)
        edges = [NEWEST_MS, NEWEST_MS - DAY_MS, NEWEST_MS - WEEK_MS, END_MS]
        times = {user: _random_times(rng, edges) for user in users}
        times[users[0]] = [NEWEST_MS]
        for user in users:
            await traded(migrated_url, user, times[user])
        found = await estimated(migrated_url)
        assert found == {user: one for user in users if (one := _by_hand(times[user])) is not None}
        assert 5 < len(found) < 40

    run(scenario())


def _random_times(rng: random.Random, edges: Sequence[int]) -> list[int]:
    """Times of one user, many of them just on or beside an edge."""
    oldest = rng.choice([END_MS - DAY_MS, NEWEST_MS - 3 * WEEK_MS, NEWEST_MS - 2 * DAY_MS])
    latest = rng.choice([NEWEST_MS, NEWEST_MS - 2 * DAY_MS, NEWEST_MS - 2 * WEEK_MS])
    spread = [rng.randint(min(oldest, latest), latest) for _ in range(rng.randrange(60))]
    return spread + [edge + rng.choice([-1, 0]) for edge in edges if rng.random() < 0.2 and edge < latest]


def _by_hand(times: Sequence[int]) -> Estimate | None:
    day, week = (sum(time >= NEWEST_MS - span for time in times) for span in (DAY_MS, WEEK_MS))
    after = Trades(sum(time >= END_MS for time in times), day, week)
    return estimate(after, (NEWEST_MS - END_MS) / HOUR_MS, (NOW_MS - NEWEST_MS) / HOUR_MS) if week else None


def test_nobody_is_counted_further_than_to_what_the_exchange_shows(migrated_url: str) -> None:
    async def scenario() -> None:
        user, other = addresses(2)
        await trading(migrated_url, {user: REACH_ROWS + 50, other: 1_200})
        found = await estimated(migrated_url, now_ms=NEWEST_MS)
        assert found[user].rows_after == REACH_ROWS
        assert found[user].urgency == 0 < found[other].urgency

    run(scenario())


def test_the_pace_is_that_before_the_newest_row_of_all_not_before_ones_own(migrated_url: str) -> None:
    async def scenario() -> None:
        stopped, active = addresses(2)
        await trading(migrated_url, {active: 300})
        await known(migrated_url, [stopped])
        await traded(migrated_url, stopped, [NEWEST_MS - WEEK_MS - i - 1 for i in range(400)])
        assert set(await estimated(migrated_url)) == {active}

    run(scenario())


def test_rows_of_the_window_itself_are_not_taken_for_the_last_week(migrated_url: str) -> None:
    async def scenario() -> None:
        user, idle = addresses(2)
        await known(migrated_url, [user, idle])
        for one in (user, idle):
            await traded(migrated_url, one, [END_MS - 1 - i * HOUR_MS for i in range(50)])
        await traded(migrated_url, user, [END_MS + DAY_MS // 2 - i for i in range(36)])
        found = await estimated(migrated_url, now_ms=END_MS + DAY_MS // 2)
        assert {user: one.fills_per_hour for user, one in found.items()} == {user: 36 / 12}

    run(scenario())


def test_without_a_row_after_the_window_nobody_is_urgent(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(3)
        await known(migrated_url, users)
        await traded(migrated_url, users[0], [END_MS - 1 - i for i in range(50)])
        assert await estimated(migrated_url) == {}

    run(scenario())


def test_all_users_are_estimated_also_in_many_statements(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        users = addresses(23)
        await trading(migrated_url, dict.fromkeys(users, 200))
        whole = await estimated(migrated_url)
        for name, value in (("USERS_AT_ONCE", 4), ("STORED_AT_ONCE", 3), ("SAMPLE_USERS", 2)):
            monkeypatch.setattr(urgency_module, name, value)
        await tell(migrated_url, "UPDATE backfill_progress SET urgency = 0")
        assert await estimated(migrated_url) == whole
        assert sorted(await ask(migrated_url, ORDERED)) == users

    run(scenario())


def test_who_has_been_read_or_is_left_to_another_source_has_no_urgency(migrated_url: str) -> None:
    async def scenario() -> None:
        read, asked, waiting = addresses(3)
        await trading(migrated_url, dict.fromkeys((read, asked, waiting), 300))
        await estimated(migrated_url)
        assert set(await ask(migrated_url, ORDERED)) == {read, asked, waiting}
        update = "UPDATE backfill_progress SET cursor_ms = $2, until_ms = $3 WHERE user_address = $1"
        await tell(migrated_url, update, read, END_MS, None)  # its TWAP slices are still to be read
        await tell(migrated_url, update, asked, END_MS - DAY_MS, END_MS - HOUR_MS)
        await tell(migrated_url, update, waiting, END_MS - DAY_MS, None)
        await estimated(migrated_url)
        assert await ask(migrated_url, ORDERED) == [waiting]

    run(scenario())


# What is written


def test_an_estimate_is_stored_and_a_second_one_writes_nothing(migrated_url: str) -> None:
    async def scenario() -> None:
        rows = {user: 120 + 40 * i for i, user in enumerate(addresses(12))}
        await trading(migrated_url, rows)
        found = await estimated(migrated_url)
        record = (
            "SELECT ARRAY[rows_after_window, fills_per_hour, urgency] FROM backfill_progress WHERE user_address = $1"
        )
        for user in rows:
            stored = await ask(migrated_url, record, user)
            one = found[user]
            assert stored == pytest.approx([round(one.rows_after), one.fills_per_hour, one.urgency], rel=1e-6)
        before = await ask(migrated_url, EVERY_ROW)
        assert await estimated(migrated_url) == found
        assert await ask(migrated_url, EVERY_ROW) == before

    run(scenario())


def test_only_a_noticeable_change_is_written(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(3)
        await trading(migrated_url, dict.fromkeys(users, 600))
        await estimated(migrated_url)
        assert await ask(migrated_url, ORDERED) == users
        before = await ask(migrated_url, EVERY_ROW)
        await traded(migrated_url, users[2], [NEWEST_MS - 7 * i - 1 for i in range(30)])
        await estimated(migrated_url)
        assert await ask(migrated_url, EVERY_ROW) == before
        await traded(migrated_url, users[2], [NEWEST_MS - 11 * i - 2 for i in range(300)])
        await estimated(migrated_url)
        assert await ask(migrated_url, ORDERED) == [users[2], *users[:2]]

    run(scenario())


def test_who_stops_trading_is_urgent_no_more(migrated_url: str) -> None:
    async def scenario() -> None:
        stopping, going_on = addresses(2)
        await trading(migrated_url, {stopping: 400, going_on: 200})
        async with an_urgency(migrated_url) as urgency:
            await urgency.estimate()
            assert await ask(migrated_url, ORDERED) == [stopping, going_on]
            later = NEWEST_MS + WEEK_MS + DAY_MS  # archives are loaded while the run goes on
            await traded(migrated_url, going_on, [later - i * HOUR_MS // 20 for i in range(200)])
            await urgency.estimate()
            assert await ask(migrated_url, ORDERED) == [going_on]

    run(scenario())


@pytest.mark.parametrize("state", ["claimed_by = 7", "completed = true", "failed_at = now()"])
def test_a_user_that_is_somebodys_or_done_is_not_touched(migrated_url: str, state: str) -> None:
    async def scenario() -> None:
        taken, free = addresses(2)
        await trading(migrated_url, {taken: 300, free: 300})
        await tell(migrated_url, f"UPDATE backfill_progress SET {state} WHERE user_address = $1", taken)
        row = "SELECT xmin::text || ctid::text FROM backfill_progress WHERE user_address = $1"
        before = await ask(migrated_url, row, taken)
        await estimated(migrated_url)
        assert await ask(migrated_url, row, taken) == before
        assert await ask(migrated_url, ORDERED) == [free]

    run(scenario())


def test_a_user_that_is_claimed_while_it_is_being_counted_is_not_touched(migrated_url: str) -> None:
    class Late(Urgency):
        async def _count(self, users: Sequence[str], newest_ms: int) -> dict[str, Trades]:
            found = await super()._count(users, newest_ms)
            await tell(migrated_url, "UPDATE backfill_progress SET claimed_by = 7 WHERE user_address = $1", taken)
            return found

    async def scenario() -> None:
        await trading(migrated_url, {taken: 300, free: 300})
        link = a_link(migrated_url)
        assert set(await Late(link, END_MS, now_ms=lambda: NOW_MS).estimate()) == {taken, free}
        await link.close()
        assert await ask(migrated_url, ORDERED) == [free]

    taken, free = addresses(2)
    run(scenario())


def test_a_row_that_is_being_claimed_is_passed_over_without_waiting(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(5)
        await trading(migrated_url, dict.fromkeys(users, 300))
        claiming = await asyncpg.connect(migrated_url)
        try:
            async with claiming.transaction():
                locked = "SELECT FROM backfill_progress WHERE user_address = $1 FOR UPDATE"
                await claiming.execute(locked, users[2])
                await estimated(migrated_url)  # would wait for ever
                assert await ask(migrated_url, ORDERED) == users[:2] + users[3:]
        finally:
            await claiming.close()
        await estimated(migrated_url)
        assert await ask(migrated_url, ORDERED) == users

    run(scenario())


# Who estimates


def test_one_worker_of_a_database_estimates_and_another_follows_it(migrated_url: str) -> None:
    async def scenario() -> None:
        await trading(migrated_url, dict.fromkeys(addresses(2), 300))
        async with an_urgency(migrated_url) as second:
            async with an_urgency(migrated_url) as first:
                assert await first.estimate()
                assert not await second.estimate()
                assert await first.estimate()
            assert await second.estimate()

    run(scenario())


def test_a_list_is_estimated_by_whoever_has_it_and_nobody_else_is(migrated_url: str) -> None:
    async def scenario() -> None:
        rows = {user: 100 * (i + 1) for i, user in enumerate(addresses(6))}
        await trading(migrated_url, rows)
        told: list[list[str]] = []

        async def prefer(users: list[str]) -> None:
            told.append(users)

        async with an_urgency(migrated_url) as somebody:
            await somebody.estimate()
            await tell(migrated_url, "UPDATE backfill_progress SET urgency = 0")
            listed = list(rows)[1:4]
            assert set(await estimated(migrated_url, users=listed, prefer=prefer)) == set(listed)
            assert await ask(migrated_url, ORDERED) == listed[::-1]
            assert told == [listed[::-1]]

    run(scenario())


def test_an_estimate_that_fails_is_told_and_tried_again(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Unlucky(Urgency):
        tries = 0

        async def estimate(self) -> dict[str, Estimate]:
            self.tries += 1
            if self.tries == 1:
                raise StoreUnavailable("The database did not answer.")
            again.set()
            return await super().estimate()

    async def scenario() -> None:
        link = a_link(migrated_url)
        task = asyncio.create_task(Unlucky(link, END_MS).keep())
        await again.wait()
        task.cancel()
        await asyncio.wait({task})
        await link.close()
        assert "The database did not answer." in caplog.text

    again = asyncio.Event()
    monkeypatch.setattr(urgency_module, "PAUSE_SECONDS", 0)
    run(scenario())


# The order, and what is told of it


@asynccontextmanager
async def some_claims(
    url: str, *, users: Sequence[str] | None = None, shard: Shard = EVERYBODY
) -> AsyncIterator[Claims]:
    link = a_link(url)
    claims = Claims(link, a_settings(), 1, WINDOW, users=users, shard=shard)
    try:
        await claims.register()
        yield claims
    finally:
        await link.close()


async def claimed(claims: Claims, count: int) -> list[str]:
    found = [await claims.next() for _ in range(count)]
    return [claim.user for claim in found if claim is not None]


@pytest.mark.parametrize("shard", [EVERYBODY, Shard(1, 2)])
def test_the_most_urgent_is_claimed_first_then_the_others_by_shard(migrated_url: str, shard: Shard) -> None:
    async def scenario() -> None:
        users = addresses(16)
        rng = random.Random(2)
        await trading(migrated_url, {user: rng.randrange(100, 900) for user in users[::2]})
        await known(migrated_url, users[1::2])
        await estimated(migrated_url)
        mine = [user for user in users if shard_of(user, shard.total) == shard.index]
        urgent = [user for user in await ask(migrated_url, ORDERED) if user in mine]
        assert len(urgent) > 2
        rest = await ask(
            migrated_url,
            "SELECT array_agg(user_address ORDER BY shard, user_address) FROM backfill_progress WHERE urgency = 0",
        )
        async with some_claims(migrated_url, shard=shard) as claims:
            assert await claimed(claims, len(mine)) == urgent + [user for user in rest if user in mine]

    run(scenario())


@pytest.mark.parametrize("shard", [EVERYBODY, Shard(0, 2)])
def test_the_urgent_ones_of_a_long_list_go_first_wherever_they_stand(
    migrated_url: str, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "LISTED_AT_ONCE", 3)

    async def scenario() -> None:
        users = addresses(20)
        await known(migrated_url, users[:12])
        await trading(migrated_url, {user: 100 * (i + 1) for i, user in enumerate(users[12:])})
        mine = [user for user in users if shard_of(user, shard.total) == shard.index]
        async with some_claims(migrated_url, users=users, shard=shard) as claims:
            await estimated(migrated_url, users=users, prefer=claims.prefer)
            urgent = [user for user in await ask(migrated_url, ORDERED) if user in mine]
            assert len(urgent) > 2
            order = await claimed(claims, len(mine))
            assert order[: len(urgent)] == urgent
            assert sorted(order) == sorted(mine)

    run(scenario())


def test_status_adds_up_what_the_estimates_say(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(8)
        rows = {user: 37 * 3**i % 4_001 + 40 for i, user in enumerate(users)}
        await trading(migrated_url, rows | {users[0]: REACH_ROWS - 5})
        found = await estimated(migrated_url, now_ms=NEWEST_MS)
        urgent = {user: one for user, one in found.items() if one.urgency}
        assert users[0] in urgent
        await tell(migrated_url, "UPDATE backfill_progress SET claimed_by = 7 WHERE user_address = $1", users[1])
        assert await _status(migrated_url) == pytest.approx(_added_up(urgent.values()), rel=1e-4)
        await tell(migrated_url, "UPDATE backfill_progress SET completed = true WHERE user_address = $1", users[2])
        del urgent[users[2]]
        assert await _status(migrated_url) == pytest.approx(_added_up(urgent.values()), rel=1e-4)
        await tell(migrated_url, "UPDATE backfill_progress SET urgency = 0")
        assert await _status(migrated_url) == [0, 0, 0]

    run(scenario())


def _added_up(estimates: Any) -> list[float]:
    known = list(estimates)
    return [len(known), sum(one.lost_per_hour for one in known), sum(one.at_stake for one in known)]


async def _status(url: str) -> list[float]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(sql("urgency_status"))
        assert row is not None
        return [float(row[name]) for name in ("users_losing", "lost_per_hour", "fills_at_stake")]
    finally:
        await connection.close()
