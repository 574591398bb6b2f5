"""Workers that share users over a real database, die, sleep and come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import asyncpg
import pytest

from tests.kit.backfill import OWN_SESSIONS, ask, tell, until
from tests.kit.factories import fill_of, wire_row
from tests.kit.loop import run
from tests.kit.proxy import Fate, Proxy
from vigil import claims as claims_module
from vigil.address import shard_of
from vigil.claims import EVERYBODY, LISTED_AT_ONCE, Claim, Claims, Shard, Window, hold_worker_lock, session_name
from vigil.db import Link
from vigil.db import sql as vigil_sql
from vigil.errors import ClaimLost, StoreError
from vigil.judge import Judge
from vigil.settings import Settings
from vigil.store import Chunk, Store, prepare_staging

WINDOW = Window(1_700_000_000_000, 1_710_000_000_000)
GRACE_SECONDS = 0.3


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker waits for in seconds, here takes a tenth."""
    monkeypatch.setattr(claims_module, "GRACE_SECONDS", GRACE_SECONDS)
    monkeypatch.setattr(claims_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(claims_module, "POLL_SECONDS", 0.05)


def addresses(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return sorted(f"0x{rng.getrandbits(160):040x}" for _ in range(count))


@dataclass
class Worker:
    """A worker with its two links; `store` commits for it."""

    id: int
    claims: Claims
    store: Store
    control: Link
    writing: Link

    async def commit(self, *chunks: Chunk) -> None:
        """Commit, and judge who is done, as a run does beside: before that nobody stops waiting for them."""
        await self.store.commit(chunks)
        await Judge(self.writing, EVERYBODY.range, ask_for_slices=False).judge_all()

    async def finish(self, claim: Claim) -> None:
        await self.commit(Chunk(claim.user, claim.end_ms, done=True))

    async def die(self) -> None:
        """As `kill -9`: the sessions end, and nothing is released."""
        await self.control.close()
        await self.writing.close()


@asynccontextmanager
async def a_worker(
    url: str,
    number: int,
    *,
    window: Window = WINDOW,
    users: Sequence[str] | None = None,
    shard: Shard = EVERYBODY,
    limit: int | None = None,
    lease: float = 60.0,
    enroll: bool = True,
    control_url: str | None = None,
    attempts: int = 3,
    retry: bool = False,
) -> AsyncIterator[Worker]:
    given: dict[str, Any] = {"lease_seconds": lease, "database_patience_seconds": 5.0, "database_timeout_seconds": 8.0}
    settings = Settings(**{"_env_file": None, "user_attempts": attempts, **given})
    name = session_name(number)
    control = Link(control_url or url, settings, prepare=hold_worker_lock(number), server_settings=name)
    writing = Link(url, settings, prepare=prepare_staging, server_settings=name)
    claims = Claims(control, settings, number, window, shard=shard, users=users, limit=limit, retry=retry)
    try:
        if enroll:
            await claims.enroll()
        await claims.register()
        yield Worker(number, claims, Store(writing, number, lease_seconds=lease), control, writing)
    finally:
        await control.close()
        await writing.close()


@asynccontextmanager
async def keeping_its_lease(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.claims.keep_lease())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def known(url: str, users: Sequence[str]) -> None:
    await tell(url, "INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[])", list(users))


async def every(claims: Claims) -> list[Claim]:
    """All claims there are to have."""
    found = []
    while (claim := await claims.next()) is not None:
        found.append(claim)
    return found


async def kill_sessions(url: str, worker: Worker) -> None:
    """End the worker's sessions from outside, and wait until they are gone; it may have new ones by then."""
    connection = await asyncpg.connect(url)
    try:
        query = f"SELECT pid, pg_terminate_backend(pid) FROM {OWN_SESSIONS} WHERE application_name = $1"
        killed = [row["pid"] for row in await connection.fetch(query, *session_name(worker.id).values())]
    finally:
        await connection.close()
    await until(url, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY ($1))", killed)


HELD_BY = "SELECT count(*) FROM backfill_progress WHERE claimed_by = $1"


# Sharing


def test_workers_claim_disjoint_users_and_all_of_them(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(41)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1, limit=20) as one, a_worker(migrated_url, 2, limit=21) as two:
            taken = await asyncio.gather(*(every(worker.claims) for worker in (one, two, one, two)))
            claimed = [claim.user for claims in taken for claim in claims]
            assert sorted(claimed) == users
            assert {len(taken[0]) + len(taken[2]), len(taken[1]) + len(taken[3])} == {20, 21}
            assert {(c.cursor_ms, c.end_ms, c.held) for c in taken[0]} <= {(WINDOW.start_ms, WINDOW.end_ms, ())}

    run(scenario())


def test_the_shard_in_sql_is_the_shard_in_python(migrated_url: str) -> None:
    async def scenario() -> None:
        users = [*addresses(300), "0x" + "0" * 40, "0x" + "f" * 40]
        await known(migrated_url, users)
        connection = await asyncpg.connect(migrated_url)
        try:
            for total in (1, 2, 3, 7, 64, 1000):
                rows = await connection.fetch(
                    "SELECT user_address, shard * $1::bigint >> 32 AS shard FROM backfill_progress", total
                )
                assert {row["user_address"]: row["shard"] for row in rows} == {
                    user: shard_of(user, total) for user in users
                }
        finally:
            await connection.close()

    run(scenario())


@pytest.mark.parametrize("total", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("listed", [False, True])
def test_shards_are_taken_by_their_workers_only(migrated_url: str, listed: bool, total: int) -> None:
    async def scenario() -> None:
        users = addresses(30)
        await known(migrated_url, users)
        taken = []
        for index in range(total):
            shard = Shard(index, total)
            async with a_worker(migrated_url, 1 + index, shard=shard, users=users if listed else None) as worker:
                mine = [claim.user for claim in await every(worker.claims)]
                assert sorted(mine) == [user for user in users if shard_of(user, total) == index]
                taken += mine
        assert sorted(taken) == users

    run(scenario())


@pytest.mark.parametrize("place", [0, 1, 2**16 - 2, 2**16 - 1])
def test_users_at_the_edges_of_a_shards_range_are_found_by_its_worker_and_by_no_other(
    migrated_url: str, place: int
) -> None:
    """Of 2**16 shards each has 2**16 hashes: `place` is which of them the user has."""

    async def scenario() -> None:
        numbers = (f"0x{number:040x}" for number in range(10**7))
        user = next(address for address in numbers if shard_of(address, 2**32) % 2**16 == place)
        await known(migrated_url, [user])
        total, index = 2**16, shard_of(user, 2**16)
        for number, (shard, found) in enumerate([(index - 1, None), (index + 1, None), (index, user)], start=1):
            async with a_worker(migrated_url, number, shard=Shard(shard % total, total)) as worker:
                claim = await worker.claims.next()
                assert (claim and claim.user) == found
                assert (await worker.claims.count_pending(worker.control), found) in ((0, None), (0, user))

    run(scenario())


@pytest.mark.parametrize("shard", [EVERYBODY, Shard(1, 2)])
def test_users_set_free_behind_the_last_claim_are_found_when_none_is_left_before_it(
    migrated_url: str, shard: Shard
) -> None:
    async def scenario() -> None:
        users = addresses(24)
        await known(migrated_url, users)
        in_order = sorted((u for u in users if shard_of(u, shard.total) == shard.index), key=hash_of)
        async with a_worker(migrated_url, 1, shard=shard) as worker:
            taken = [await worker.claims.next() for _ in in_order[:6]]
            assert [claim and claim.user for claim in taken] == in_order[:6]
            for user in (in_order[0], in_order[3]):
                await worker.commit(Chunk(user, None, released=True))
            rest = [claim.user for claim in await every(worker.claims)]
            assert rest == [*in_order[6:], in_order[0], in_order[3]]
            for user in (in_order[-1], in_order[2]):  # and again, from wherever the pointer stands then
                await worker.commit(Chunk(user, None, released=True))
            assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 0
        await tell(migrated_url, "DELETE FROM backfill_workers")
        async with a_worker(migrated_url, 2, shard=shard) as heir:
            assert sorted(claim.user for claim in await every(heir.claims)) == sorted(in_order)

    run(scenario())


def hash_of(user: str) -> int:
    """The order in which users are claimed."""
    return shard_of(user, 2**32)


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_give_users_back_at_random_still_find_them_all(migrated_url: str, seed: int) -> None:
    async def scenario() -> None:
        rng, users = random.Random(seed), addresses(40, seed)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1) as one, a_worker(migrated_url, 2, shard=Shard(1, 3)) as other:

            async def work(worker: Worker) -> list[str]:
                done = []
                while (claim := await worker.claims.next()) is not None:
                    if rng.random() < 0.5:
                        await worker.commit(Chunk(claim.user, None, released=True))
                    else:
                        await worker.finish(claim)
                        done.append(claim.user)
                return done

            done = await asyncio.gather(work(one), work(other))
            assert sorted(done[0] + done[1]) == users
            assert all(shard_of(user, 3) == 1 for user in done[1])

    run(scenario())


def test_a_list_longer_than_one_statement_takes_is_claimed_whole(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(LISTED_AT_ONCE + 30)
        strangers = addresses(5, seed=2)
        await known(migrated_url, strangers)
        random.Random(3).shuffle(users)
        async with a_worker(migrated_url, 1, users=users, enroll=False) as worker:
            await worker.claims.enroll()
            assert await worker.claims.count_pending(worker.control) == len(users)
            await tell(
                migrated_url,
                "UPDATE backfill_progress SET completed = true, window_start_ms = 0, cursor_ms = $2"
                " WHERE user_address = ANY ($1)",
                users[10 : LISTED_AT_ONCE + 10],
                WINDOW.end_ms,
            )
            claimed = [claim.user for claim in await every(worker.claims)]
            assert sorted(claimed) == sorted(users[:10] + users[LISTED_AT_ONCE + 10 :])

    run(scenario())


def test_the_limit_counts_users_taken_and_is_kept_by_all_pagers_together(migrated_url: str) -> None:
    async def scenario() -> None:
        await known(migrated_url, addresses(10))
        async with a_worker(migrated_url, 1, limit=4, enroll=False) as worker:
            await worker.claims.enroll()
            assert await worker.claims.count_pending(worker.control) == 4
            taken = await asyncio.gather(*(every(worker.claims) for _ in range(3)))
            assert sum(map(len, taken)) == 4
            assert await ask(migrated_url, HELD_BY, 1) == 4
        async with a_worker(migrated_url, 2, limit=0) as worker:
            assert await worker.claims.next() is None

    run(scenario())


# Windows


@pytest.mark.parametrize(
    ("then", "read_to", "now", "expected"),
    [
        ((100, 200), 200, (100, 200), None),  # the same: covered
        ((100, 200), 200, (120, 180), None),  # narrower: covered
        ((100, 200), 200, (100, 300), (200, 300)),  # wider at the end: goes on
        ((100, 200), 200, (150, 300), (200, 300)),  # overlapping: goes on
        ((100, 200), 200, (50, 200), (50, 200)),  # wider at the start: anew
        ((100, 200), 200, (200, 300), (200, 300)),  # touching: goes on
        ((100, 200), 200, (201, 300), (201, 300)),  # apart: anew
        ((100, 200), 200, (10, 20), (10, 20)),  # apart, earlier: anew
        ((100, 200), 150, (100, 200), (150, 200)),  # interrupted: goes on
        ((100, 200), 150, (120, 140), None),  # interrupted, but what is asked for is covered
        ((100, 200), 150, (160, 200), (160, 200)),  # interrupted before the window asked for: anew
    ],
)
def test_only_what_has_not_been_read_of_a_window_is_read(
    migrated_url: str,
    then: tuple[int, int],
    read_to: int,
    now: tuple[int, int],
    expected: tuple[int, int] | None,
) -> None:
    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        async with a_worker(migrated_url, 1, window=Window(*then)) as worker:
            claim = await worker.claims.next()
            assert claim is not None
            await worker.commit(Chunk(user, read_to, done=read_to == then[1]))
            await worker.claims.release()
        async with a_worker(migrated_url, 2, window=Window(*now), enroll=False) as worker:
            await worker.claims.enroll()
            assert await worker.claims.count_pending(worker.control) == (expected is not None)
            claim = await worker.claims.next()
            assert (claim and (claim.cursor_ms, claim.end_ms)) == expected
            state = await ask(migrated_url, "SELECT state::text FROM backfill_progress")
            assert (state == "claimed") == (expected is not None)

    run(scenario())


def test_fills_stored_where_the_walk_goes_on_are_told_with_the_claim(migrated_url: str) -> None:
    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        start = WINDOW.start_ms
        rows = [wire_row(start + 5, 1), wire_row(start + 9, 2), wire_row(start + 9, 3, side="A")]
        fills = [fill_of(row) for row in rows]
        async with a_worker(migrated_url, 1) as worker:
            await worker.claims.next()
            await worker.commit(Chunk(user, start + 9, fills))
            await worker.die()
            await tell(migrated_url, "DELETE FROM backfill_workers")
        async with a_worker(migrated_url, 2) as worker:
            claim = await worker.claims.next()
            assert claim is not None
            assert (claim.cursor_ms, set(claim.held)) == (start + 9, {fill.key for fill in fills[1:]})
            await worker.commit(Chunk(user, WINDOW.end_ms, done=True))
        # A window that begins earlier is read anew: what is stored at its start must not count as held.
        async with a_worker(migrated_url, 3, window=Window(start - 1, WINDOW.end_ms)) as worker:
            claim = await worker.claims.next()
            assert claim is not None
            assert (claim.cursor_ms, claim.held) == (start - 1, ())

    run(scenario())


def test_a_failed_user_is_tried_again_by_the_next_run_and_not_by_this_one(migrated_url: str) -> None:
    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        async with a_worker(migrated_url, 1) as worker:
            await worker.claims.next()
            await worker.commit(Chunk(user, None, error="refused"))
            assert await worker.claims.next() is None
        async with a_worker(migrated_url, 2) as worker:
            claim = await worker.claims.next()
            assert claim is not None
            await worker.finish(claim)
        row = "SELECT state || ' ' || attempts FROM backfill_progress"
        assert await ask(migrated_url, row) == "completed 0"

    run(scenario())


async def failed(url: str, tries: dict[str, int]) -> None:
    """Users that have failed so often."""
    await tell(
        url,
        "INSERT INTO backfill_progress (user_address, attempts, failed_at, last_error)"
        " SELECT u, n, now(), 'refused' FROM unnest($1::text[], $2::int[]) AS told (u, n)",
        [*tries],
        [*tries.values()],
    )


@pytest.mark.parametrize("listed", [False, True])
def test_users_that_keep_failing_are_parked_until_they_are_asked_for(migrated_url: str, listed: bool) -> None:
    async def scenario() -> None:
        once, twice, thrice, fresh, stranger = users = addresses(5)
        await failed(migrated_url, {once: 1, twice: 2, thrice: 3})
        await known(migrated_url, [fresh, stranger])
        mine = [u for u in users if u != stranger] if listed else None
        open_to_all = [] if listed else [stranger]
        async with a_worker(migrated_url, 1, users=mine, attempts=2, enroll=False) as worker:
            assert await worker.claims.count_failed() == 3
            assert await worker.claims.count_pending(worker.control) == 1 + len(open_to_all)
            await worker.claims.enroll()
            assert await worker.claims.count_failed() == 2, "parked ones stay failed"
            assert await worker.claims.count_pending(worker.control) == 2 + len(open_to_all)
            taken = [claim.user for claim in await every(worker.claims)]
            assert sorted(taken) == sorted([once, fresh, *open_to_all])
            await worker.claims.release()
        async with a_worker(migrated_url, 2, users=mine, attempts=2, retry=True) as worker:
            assert await worker.claims.count_failed() == 0
            assert {twice, thrice} <= {claim.user for claim in await every(worker.claims)}
            kept = "SELECT string_agg(attempts::text, ' ' ORDER BY user_address) FROM backfill_progress"
            expected = {once: 1, twice: 2, thrice: 3, fresh: 0, stranger: 0}
            assert await ask(migrated_url, kept) == " ".join(str(expected[user]) for user in users)

    run(scenario())


def test_a_user_is_parked_after_so_many_runs_in_which_it_failed_and_success_begins_anew(migrated_url: str) -> None:
    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        for number in (1, 2):
            async with a_worker(migrated_url, number, attempts=2) as worker:
                assert await worker.claims.next() is not None
                await worker.commit(Chunk(user, None, error="refused"))
                await worker.claims.release()
        async with a_worker(migrated_url, 3, attempts=2) as worker:
            assert await worker.claims.next() is None
            assert await worker.claims.count_failed() == 1
        async with a_worker(migrated_url, 4, attempts=2, retry=True) as worker:
            await worker.claims.next()
            await worker.commit(Chunk(user, None, released=True))  # an interruption is no try
            assert await ask(migrated_url, "SELECT attempts FROM backfill_progress") == 2
            claim = await worker.claims.next()
            assert claim is not None
            await worker.finish(claim)
        assert await ask(migrated_url, "SELECT state || ' ' || attempts FROM backfill_progress") == "completed 0"

    run(scenario())


def test_a_worker_retries_and_counts_the_failed_users_of_its_shard_only(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(30)
        await failed(migrated_url, dict.fromkeys(users[:20], 1))
        await known(migrated_url, users[20:])
        shard = Shard(2, 3)
        mine = [user for user in users if shard_of(user, 3) == 2]
        waiting = [user for user in mine if user in users[20:]]
        async with a_worker(migrated_url, 1, shard=shard, enroll=False) as worker:
            assert await worker.claims.count_failed() == len(mine) - len(waiting) > 0
            assert await worker.claims.count_pending(worker.control) == len(waiting) > 0
            await worker.claims.enroll()
            assert await worker.claims.count_failed() == 0
            assert await worker.claims.count_pending(worker.control) == len(mine)
            still = "SELECT count(*) FROM backfill_progress WHERE state = 'failed'"
            assert await ask(migrated_url, still) == 20 - (len(mine) - len(waiting))
        async with a_worker(migrated_url, 2, shard=shard, users=users[:20], enroll=False) as worker:
            assert await worker.claims.count_pending(worker.control) == len(mine) - len(waiting)
            assert await worker.claims.count_failed() == 0

    run(scenario())


def test_a_row_declared_complete_by_hand_is_left_alone(migrated_url: str) -> None:
    async def scenario() -> None:
        by_hand, other = addresses(2)
        await tell(migrated_url, "INSERT INTO backfill_progress (user_address, completed) VALUES ($1, true)", by_hand)
        await known(migrated_url, [other])
        for number, users in ((1, None), (2, [by_hand, other])):
            async with a_worker(migrated_url, number, users=users) as worker:
                assert [claim.user for claim in await every(worker.claims)] == [other]
                await worker.claims.release()
        row = "SELECT state::text FROM backfill_progress WHERE user_address = $1 AND started_at IS NULL"
        assert await ask(migrated_url, row, by_hand) == "completed"

    run(scenario())


def test_users_are_found_in_fills_whatever_else_stands_there(migrated_url: str) -> None:
    mixed = "0x" + "AbCd" * 10
    found = ["0x" + "0" * 40, mixed, "0x" + "9a" * 20, "0x" + "f" * 40]
    junk = ["", "vault", "0x12", "0x" + "g" * 40, "0x" + "a" * 41, " 0x" + "1" * 40, "0X" + "b" * 40, "Ünïcode"]

    async def scenario() -> None:
        await tell(
            migrated_url,
            "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
            " SELECT u, to_timestamp(1700000000 + n * 86400), 'BTC', 'B', 1, 1, n, n"
            " FROM unnest($1::text[]) AS u, generate_series(1, 60, 7) AS n",
            [*found, mixed.lower(), *junk],
        )
        expected = sorted([*(user.lower() for user in found), "0x" + "b" * 40])
        async with a_worker(migrated_url, 1, enroll=False) as worker:
            await worker.claims.enroll()
            assert await worker.claims.count_pending(worker.control) == len(expected)
            assert sorted(claim.user for claim in await every(worker.claims)) == expected

    run(scenario())


# Workers that die, and those that only look like it


def test_a_worker_whose_session_is_gone_is_taken_over_after_the_grace(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(3)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1) as dead:
            assert len(await every(dead.claims)) == 3
            await dead.die()
            async with a_worker(migrated_url, 2) as heir:
                assert await ask(migrated_url, HELD_BY, 1) == 3  # only suspected yet
                began = asyncio.get_running_loop().time()
                assert sorted(claim.user for claim in await every(heir.claims)) == users
                assert asyncio.get_running_loop().time() - began < 10 * GRACE_SECONDS
                assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 0
                with pytest.raises(ClaimLost):
                    await dead.finish(Claim(users[0], 0, 1))
                with pytest.raises(ClaimLost):
                    await dead.claims.keep_lease()
                assert await ask(migrated_url, HELD_BY, 2) == 3

    run(scenario())


def test_a_worker_that_was_taken_over_claims_no_more_users(migrated_url: str) -> None:
    async def scenario() -> None:
        await known(migrated_url, addresses(3))
        async with a_worker(migrated_url, 1) as sleeper:
            assert await sleeper.claims.next() is not None
            await tell(migrated_url, "DELETE FROM backfill_workers")
            with pytest.raises(ClaimLost):
                await sleeper.claims.next()

    run(scenario())


def test_a_live_worker_whose_connection_broke_keeps_its_users(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(3)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1) as broken, a_worker(migrated_url, 2) as other:
            assert len(await every(broken.claims)) == 3
            async with keeping_its_lease(broken) as lease:
                waiting = asyncio.create_task(other.claims.next())
                for _ in range(3):
                    reconnects = broken.control.reconnects
                    await kill_sessions(migrated_url, broken)
                    async with asyncio.timeout(5):
                        while broken.control.reconnects == reconnects:  # noqa: ASYNC110  the lease's task does it
                            await asyncio.sleep(0.01)
                    await asyncio.sleep(2 * GRACE_SECONDS)  # time to be taken for dead
                assert not lease.done()
                assert await ask(migrated_url, HELD_BY, 1) == 3
                for user in users:
                    await broken.commit(Chunk(user, WINDOW.end_ms, done=True))
                assert await waiting is None

    run(scenario())


def test_a_suspicion_is_forgotten_once_the_worker_is_back(migrated_url: str) -> None:
    """Back by way of a claim, not of the heartbeat; broken again, it must have the whole grace again."""

    async def scenario() -> None:
        users = addresses(3)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1) as broken, a_worker(migrated_url, 2, limit=0) as other:
            await broken.claims.next()
            await kill_sessions(migrated_url, broken)
            await other.claims._bury_the_dead()
            assert await ask(migrated_url, "SELECT suspect_since FROM backfill_workers WHERE worker_id = 1")
            assert await broken.claims.next() is not None
            await asyncio.sleep(2 * GRACE_SECONDS)
            await kill_sessions(migrated_url, broken)
            await other.claims._bury_the_dead()
            assert await ask(migrated_url, HELD_BY, 1) == 2

    run(scenario())


def test_a_worker_back_before_its_old_session_has_ended_gets_its_lock_later(migrated_url: str) -> None:
    """The server takes a while to see that the old connection is gone; meanwhile the lock is not to be had."""

    async def scenario() -> None:
        await known(migrated_url, addresses(3))
        async with (
            Proxy(migrated_url) as proxy,
            a_worker(migrated_url, 1, control_url=proxy.url) as broken,
            a_worker(migrated_url, 2, limit=0) as other,
            keeping_its_lease(broken) as lease,
        ):
            proxy.once(b"SELECT user_address", Fate.CLIENT_CUT)
            assert await broken.claims.next() is not None
            await asyncio.sleep(0.2)  # some heartbeats
            name = session_name(1)["application_name"]
            query = f"SELECT pid FROM {OWN_SESSIONS} WHERE application_name = $1 ORDER BY backend_start LIMIT 1"
            old = await ask(migrated_url, query, name)
            await tell(migrated_url, "SELECT pg_terminate_backend($1)", old)
            await until(migrated_url, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", old)
            for _ in range(4):
                await asyncio.sleep(GRACE_SECONDS / 2)
                await other.claims._bury_the_dead()
            assert not lease.done(), "a live worker was buried"
            assert await ask(migrated_url, HELD_BY, 1) >= 1

    run(scenario())


def test_a_worker_that_hangs_in_a_commit_beyond_its_lease_is_taken_over(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(2)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1, lease=1.0) as sleeper:
            assert len(await every(sleeper.claims)) == 2
            name = session_name(1)
            session = await asyncpg.connect(migrated_url, server_settings=name)  # its writer, asleep in a commit
            try:
                await session.execute("BEGIN")
                await session.execute("UPDATE backfill_workers SET committed_batch = 1 WHERE worker_id = 1")
                await session.execute("UPDATE backfill_progress SET cursor_ms = 1")
                async with a_worker(migrated_url, 2) as heir:
                    assert sorted(claim.user for claim in await every(heir.claims)) == users
                    assert await ask(migrated_url, "SELECT max(cursor_ms) FROM backfill_progress") == WINDOW.start_ms
                    with pytest.raises(ClaimLost):
                        await sleeper.finish(Claim(users[0], 0, 1))
            finally:
                session.terminate()

    run(scenario())


def test_a_live_worker_whose_commit_takes_longer_than_its_lease_is_not_taken_for_dead(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(2)
        await known(migrated_url, users)
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_worker(migrated_url, 1, lease=1.0) as slow, a_worker(migrated_url, 2, limit=0) as other:
                assert len(await every(slow.claims)) == 2
                async with keeping_its_lease(slow) as lease:
                    async with blocker.transaction():  # a commit that waits for something, for twice the lease
                        await blocker.execute("LOCK TABLE fills IN EXCLUSIVE MODE")
                        chunk = Chunk(users[0], WINDOW.end_ms, [fill_of(wire_row(WINDOW.start_ms))], done=True)
                        committing = asyncio.create_task(slow.commit(chunk))
                        for _ in range(8):
                            await asyncio.sleep(0.25)
                            await other.claims._bury_the_dead()
                    await committing
                    assert not lease.done()
                    reconnects = slow.control.reconnects + slow.writing.reconnects
                    assert reconnects == 2, "its sessions were ended"
        finally:
            await blocker.close()

    run(scenario())


def test_a_worker_that_ends_frees_its_users_at_once_and_twice_is_once(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(3)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1) as first:
            await every(first.claims)
            await first.claims.release()
            await first.claims.release()
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_workers") == 0
            async with a_worker(migrated_url, 2) as second:
                assert sorted(claim.user for claim in await every(second.claims)) == users

    run(scenario())


def test_next_waits_for_users_in_other_hands_and_takes_those_set_free(migrated_url: str) -> None:
    async def scenario() -> None:
        users = addresses(2)
        await known(migrated_url, users)
        async with a_worker(migrated_url, 1) as first, a_worker(migrated_url, 2, users=users) as second:
            claims = await every_of(first, 2)
            waiting = asyncio.create_task(second.claims.next())
            await first.finish(claims[0])
            await asyncio.sleep(0.2)  # some looks
            assert not waiting.done()
            await first.claims.release()
            claim = await waiting
            assert claim is not None
            assert claim.user == claims[1].user
            await second.finish(claim)
            assert await second.claims.next() is None

    async def every_of(worker: Worker, count: int) -> list[Claim]:
        found = [await worker.claims.next() for _ in range(count)]
        return [claim for claim in found if claim is not None]

    run(scenario())


def test_a_user_that_another_run_reads_more_narrowly_is_read_on_afterwards(migrated_url: str) -> None:
    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        narrow = Window(WINDOW.start_ms, WINDOW.start_ms + 1000)
        async with a_worker(migrated_url, 1, window=narrow) as first:
            claim = await first.claims.next()
            assert claim is not None
            async with a_worker(migrated_url, 2) as second:
                waiting = asyncio.create_task(second.claims.next())
                await asyncio.sleep(0.1)
                await first.finish(claim)
                claim = await waiting
                assert claim is not None, "the run ends, its window unread"
                assert (claim.user, claim.end_ms) == (user, WINDOW.end_ms)

    run(scenario())


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    "fate",
    [Fate.CUT_BEFORE, Fate.ANSWER_LOST],
)
def test_a_claim_whose_answer_was_lost_is_not_forgotten(migrated_url: str, fate: Fate, listed: bool) -> None:
    async def scenario() -> None:
        users = addresses(5)
        await known(migrated_url, users)
        async with Proxy(migrated_url) as proxy:
            control = {"control_url": proxy.url, "users": users if listed else None}
            async with a_worker(migrated_url, 1, **control) as worker:  # type: ignore[arg-type]
                claimed = []
                for number in range(5):
                    cut = proxy.once(b"COMMIT", fate) if number in (1, 4) else None
                    claim = await worker.claims.next()
                    assert cut is None or cut.fired.is_set()
                    assert claim is not None, f"user {number + 1} of 5 is claimed by the worker, and read by nobody"
                    claimed.append(claim.user)
                assert sorted(claimed) == users

    run(scenario())


def test_a_user_locked_for_a_moment_by_somebody_else_is_waited_for(migrated_url: str) -> None:
    """Such as by this worker's own claim, in a session that the server still believes in."""

    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_worker(migrated_url, 1) as worker:
                async with blocker.transaction():
                    await blocker.execute("SELECT FROM backfill_progress FOR UPDATE")
                    waiting = asyncio.create_task(worker.claims.next())
                    await asyncio.sleep(0.3)
                    assert not waiting.done(), "the run ends, a user unread"
                claim = await waiting
                assert claim is not None
        finally:
            await blocker.close()

    run(scenario())


def test_users_claimed_while_orphans_are_freed_stay_claimed(migrated_url: str) -> None:
    """A worker waits to free an orphan that another has freed and a third claimed meanwhile."""

    async def scenario() -> None:
        (user,) = addresses(1)
        await known(migrated_url, [user])
        await tell(migrated_url, "UPDATE backfill_progress SET claimed_by = 99")  # of a worker that is no more
        blocker = await asyncpg.connect(migrated_url)
        try:
            async with a_worker(migrated_url, 2, limit=0, enroll=False) as burying:
                await tell(migrated_url, "UPDATE backfill_progress SET claimed_by = 99")
                async with blocker.transaction():
                    await blocker.execute(
                        "INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at)"
                        " VALUES (3, 'h', 1, now() + '1 hour')"
                    )
                    await blocker.execute("UPDATE backfill_progress SET claimed_by = 3")
                    bury = asyncio.create_task(burying.claims._bury_the_dead())
                    waiting = f"SELECT count(*) = 1 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock'"
                    await until(migrated_url, f"{waiting} AND datname = current_database()")
                await bury
                assert await ask(migrated_url, HELD_BY, 3) == 1
        finally:
            await blocker.close()

    run(scenario())


# Statements


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("analyzed", ["before", "after"])
def test_no_look_for_users_reads_the_whole_table(migrated_url: str, read: bool, analyzed: str) -> None:
    """Whether nobody is left to read or all of one shard are, and whether or not the planner has noticed."""

    async def scenario() -> None:
        connection = await asyncpg.connect(migrated_url)
        try:
            await connection.execute(
                "INSERT INTO backfill_progress (user_address)"
                " SELECT '0x' || left(encode(sha256(n::text::bytea), 'hex'), 40) FROM generate_series(1, 20000) AS n"
            )
            if analyzed == "before":
                await connection.execute("ANALYZE backfill_progress")
            shard = EVERYBODY if read else Shard(3, 50)
            await connection.execute(
                "UPDATE backfill_progress SET completed = true, window_start_ms = $1, cursor_ms = $2, judged_at = now()"
                " WHERE shard >= $3 AND shard < $4",
                WINDOW.start_ms,
                WINDOW.end_ms,
                *shard.range,
            )
            if analyzed == "after":
                await connection.execute("ANALYZE backfill_progress")
            window, (first, end) = (WINDOW.start_ms, WINDOW.end_ms), shard.range
            for name, arguments in {
                "pick_pending": (*window, first, "", end, "hyperliquid", True),
                "others_users": (1, first, end, *window, "hyperliquid", True),
                "reopen": (*window, first, end),
                "retry_failed": (first, end, 3),
                "release_orphans": (),
            }.items():
                plan = [row[0] for row in await connection.fetch(f"EXPLAIN {vigil_sql(name)}", *arguments)]
                scans = [line.strip() for line in plan if "Seq Scan on backfill_progress" in line]
                assert not scans, f"{name}: {plan}"
        finally:
            await connection.close()

    run(scenario())


@pytest.mark.parametrize(
    ("read", "opened"),
    [
        (WINDOW, False),
        (Window(0, 2**42), False),
        (Window(WINDOW.start_ms + 1, WINDOW.end_ms), True),
        (Window(WINDOW.start_ms, WINDOW.end_ms - 1), True),
    ],
)
def test_users_read_for_a_narrower_window_are_seen_at_the_last_look_and_opened(
    migrated_url: str, read: Window, opened: bool
) -> None:
    """Another run has completed one more narrowly since this run began."""

    async def scenario() -> None:
        (user,) = addresses(1)
        async with a_worker(migrated_url, 1) as worker:
            await tell(
                migrated_url,
                "INSERT INTO backfill_progress (user_address, completed, window_start_ms, cursor_ms)"
                " VALUES ($1, true, $2, $3)",
                user,
                read.start_ms,
                read.end_ms,
            )
            claim = await worker.claims.next()
            assert (claim and claim.user) == (user if opened else None)

    run(scenario())


def test_every_statement_prepares_against_the_schema(migrated_url: str) -> None:
    async def scenario() -> None:
        names = sorted(file.name for file in (files("vigil") / "sql").iterdir() if file.name.endswith(".sql"))
        assert len(names) > 20
        connection = await asyncpg.connect(migrated_url)
        try:
            await prepare_staging(connection)
            for name in names:
                statement = (files("vigil") / "sql" / name).read_text("utf-8")
                assert statement.startswith("-- "), f"{name} does not begin with what it is for"
                if name != "staging.sql":  # several statements, run just now
                    await connection.prepare(statement)
        finally:
            await connection.close()

    run(scenario())


def test_an_address_that_is_none_is_refused_by_the_database_too(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_worker(migrated_url, 1, users=["0x" + "AB" * 20], enroll=False) as worker:
            with pytest.raises(StoreError, match="user_address_is_lower_case_hex"):
                await worker.claims.enroll()

    run(scenario())
