"""Workers behind one address that share its budget through a real database; they come, rest, die and come again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from tests.kit.backfill import OWN_SESSIONS, ask, tell, until
from tests.kit.lane_ledger import LaneLedger
from tests.kit.loop import run
from tests.kit.proxy import Fate, Proxy
from vigil import claims as claims_module
from vigil import lanes as lanes_module
from vigil.claims import Claims, Window, hold_worker_lock, session_name
from vigil.db import Connection, Link, sql
from vigil.errors import ClaimLost
from vigil.lanes import Lane, fair_share
from vigil.limiter import BASE_WEIGHT, FULL_PAGE_WEIGHT, OVERSHOOT_WEIGHT, WeightLimiter
from vigil.settings import Settings

ALLOWED = 1200
HALF = (ALLOWED - OVERSHOOT_WEIGHT) // 2
SHORT_SECONDS = 0.7
"""A period that ends while a test waits."""

GRACE_SECONDS = 0.1
NEVER_SECONDS = 3000.0
"""A share lapses after this: what tests do between two reports may take its time."""

BOOKS = """
SELECT
    (SELECT coalesce(sum(greatest(share_weight, used_weight)), 0) FROM backfill_workers WHERE lane = $1)
    + (SELECT coalesce(sum(weight), 0) FROM backfill_spent_weight WHERE lane = $1 AND expires_at > clock_timestamp())
"""
MAY_BE_SPENT = """
SELECT sum(greatest(share_weight, used_weight)) + 100 * greatest(count(*) FILTER (WHERE share_weight > 0) - 1, 0)
FROM backfill_workers WHERE lane = $1
"""
"""With an overshoot of each but one, which the exchange allows itself."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "GRACE_SECONDS", GRACE_SECONDS)
    monkeypatch.setattr(lanes_module, "GRACE_SECONDS", NEVER_SECONDS)


@dataclass
class Member:
    """A worker of a lane."""

    id: int
    claims: Claims
    lane: Lane
    limiter: WeightLimiter
    link: Link

    @property
    def share(self) -> int:
        return self.limiter.budget.weight_per_period

    async def agree(self) -> int:
        await self.lane.agree()
        return self.share

    async def spend(self, *weights: int) -> None:
        """Requests that are answered at once."""
        for weight in weights:
            async with asyncio.timeout(20), self.limiter.request() as ticket:
                ticket.weight = weight

    async def leave(self) -> None:
        """As a run does at its end."""
        await self.lane.leave()
        await self.claims.release()

    async def die(self) -> None:
        """As `kill -9`: the session ends, and nothing is released."""
        await self.link.close()

    async def bury(self, dead: Member, url: str) -> None:
        """Find the other dead, as soon as it may be found."""
        async with asyncio.timeout(20):
            while await ask(url, "SELECT count(*) FROM backfill_workers WHERE worker_id = $1", dead.id):
                await self.claims._bury_the_dead()
                await asyncio.sleep(GRACE_SECONDS / 4)


@asynccontextmanager
async def a_member(
    url: str, number: int, *, lane: str = "one", period: float = 60.0, allowed: int = ALLOWED, lease: float = 6000.0
) -> AsyncIterator[Member]:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        lane=lane,
        weight_per_minute=allowed,
        weight_period_seconds=period,
        lease_seconds=lease,
        database_patience_seconds=5.0,
        database_timeout_seconds=20.0,
    )
    link = Link(url, settings, prepare=hold_worker_lock(number), server_settings=session_name(number))
    claims = Claims(link, settings, number, Window(0, 1))
    limiter = WeightLimiter(allowed, period)
    limiter.resize(0)
    try:
        await claims.register()
        yield Member(number, claims, Lane(link, settings, number, limiter), limiter, link)
    finally:
        await link.close()


async def books(url: str, lane: str = "one") -> int:
    return int(await ask(url, BOOKS, lane))


async def until_share(member: Member, share: int, *others: Member) -> None:
    """Report again and again, the others too, until the member has that share."""
    async with asyncio.timeout(20):
        while await member.agree() != share:
            for other in others:
                await other.agree()
            await asyncio.sleep(SHORT_SECONDS / 20)


@contextmanager
def wanting(*members: Member) -> Iterator[None]:
    """As if they all had a page to ask for, all the time."""
    for member in members:
        member.limiter.queue.waiting += 1
    yield
    for member in members:
        member.limiter.queue.waiting -= 1


def hungry(member: Member) -> asyncio.Task[None]:
    """A request that waits for weight, so that the member wants some."""
    return asyncio.create_task(member.spend(BASE_WEIGHT))


# Shares


def test_a_worker_alone_has_the_whole_budget_at_once(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1) as only:
            assert only.share == 0, "nothing is spent before the lane has agreed"
            assert await only.agree() == ALLOWED
            assert await books(migrated_url) == ALLOWED

    run(scenario())


@pytest.mark.parametrize(
    ("is_hungry", "others", "share"), [(True, 0, 1200), (True, 1, 550), (True, 3, 225), (False, 0, 1200), (False, 1, 0)]
)
def test_shares_are_equal_among_those_who_want_weight(is_hungry: bool, others: int, share: int) -> None:
    assert fair_share(ALLOWED, hungry=is_hungry, others_hungry=others) == share


@pytest.mark.parametrize("allowed", [20, 100, 140, 1200])
@pytest.mark.parametrize("others", [1, 11, 59, 60, 500])
def test_a_share_wanted_is_never_too_small_for_a_request(allowed: int, others: int) -> None:
    assert fair_share(allowed, hungry=True, others_hungry=others) >= BASE_WEIGHT


def test_a_newcomer_grows_as_weight_leaves_the_others_books(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1, period=3.0) as first, a_member(migrated_url, 2, period=3.0) as second:
            with wanting(first, second):
                await first.agree()
                await first.spend(*[100] * 11)
                assert await first.agree() == ALLOWED
                assert await second.agree() == 0
                assert await first.agree() == HALF, "it yields its half before the other has it"
                grants = set()
                async with asyncio.timeout(20):
                    while await second.agree() < HALF:
                        grants.add(second.share)
                        assert await books(migrated_url) <= 1100
                        await first.agree()
                assert grants, "it had the weight before it had left the other's books"
                assert first.limiter.budget.used(asyncio.get_running_loop().time()) <= 1100 - HALF

    run(scenario())


def test_a_worker_with_nothing_to_fetch_yields_its_share_and_gets_it_back(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1) as busy, a_member(migrated_url, 2) as other:
            with wanting(busy):
                await busy.agree()
                for _ in range(2):
                    with wanting(other):
                        await other.agree()
                        assert await busy.agree() == HALF
                        assert await other.agree() == HALF
                    assert await other.agree() == 0
                    assert await busy.agree() == ALLOWED

    run(scenario())


def test_two_that_rest_may_wake_together_and_both_exceed_their_shares(migrated_url: str) -> None:
    """Shares of workers that want nothing are spent as soon as they want something, before anybody is told."""

    async def scenario() -> None:
        async with a_member(migrated_url, 1) as one, a_member(migrated_url, 2) as other:
            await one.agree()
            await one.spend(*[BASE_WEIGHT] * 15)
            await one.agree()
            await other.agree()
            for _ in range(3):
                await one.agree()
                await other.agree()
            assert (one.share, other.share) == (200, 900)
            assert await ask(migrated_url, MAY_BE_SPENT, "one") <= ALLOWED + OVERSHOOT_WEIGHT

    run(scenario())


def test_another_lane_is_not_affected(migrated_url: str) -> None:
    async def scenario() -> None:
        async with (
            a_member(migrated_url, 1, lane="one") as one,
            a_member(migrated_url, 2, lane="two") as two,
            a_member(migrated_url, 3, lane="One") as three,
        ):
            for member in (one, two, three):
                assert await member.agree() == ALLOWED
                await member.spend(*[BASE_WEIGHT] * 20)
                assert await member.agree() == ALLOWED
            await one.die()
            await two.bury(one, migrated_url)
            assert await two.agree() == ALLOWED
            assert await books(migrated_url, "two") == ALLOWED

    run(scenario())


# Leaving, dying, coming back


def test_an_orderly_leave_hands_over_exactly_what_was_not_spent(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1) as leaving, a_member(migrated_url, 2) as staying:
            await leaving.agree()
            await leaving.spend(20, 120, 33)
            assert await staying.agree() == 0
            await leaving.leave()
            assert leaving.share == 0
            assert await books(migrated_url) == 173
            assert await staying.agree() == ALLOWED - 173

    run(scenario())


def test_a_request_given_up_when_leaving_is_not_handed_over(migrated_url: str) -> None:
    """It may be on its way yet, so it counts at its worst, and for two periods."""

    async def scenario() -> None:
        async with a_member(migrated_url, 1) as leaving, a_member(migrated_url, 2) as staying:
            await leaving.agree()
            with pytest.raises(ConnectionError):
                async with leaving.limiter.request():
                    raise ConnectionError
            await leaving.leave()
            assert await staying.agree() == ALLOWED - FULL_PAGE_WEIGHT
            left = "SELECT max(expires_at) - clock_timestamp() > interval '100 s' FROM backfill_spent_weight"
            assert await ask(migrated_url, left)

    run(scenario())


def test_a_restart_within_the_minute_remembers_what_the_minute_has_spent(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1, period=3.0) as before:
            await before.agree()
            await before.spend(*[100] * 9)
            await before.leave()
        async with a_member(migrated_url, 2, period=3.0) as after:
            await comes_back(migrated_url, after)

    run(scenario())


@pytest.mark.parametrize("spent", [0, 11])
def test_a_dead_workers_weight_comes_back_when_its_period_is_over_and_not_before(migrated_url: str, spent: int) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1, period=3.0) as dead, a_member(migrated_url, 2, period=3.0) as heir:
            await dead.agree()
            await dead.spend(*[100] * spent)
            if spent:
                await dead.agree()
            assert await heir.agree() == 0
            await dead.die()
            await heir.bury(dead, migrated_url)
            await comes_back(migrated_url, heir)

    run(scenario())


async def comes_back(url: str, heir: Member) -> None:
    """The heir has exactly what the departed left free, by the database's clock, until it has all."""
    left = "SELECT coalesce(sum(weight), 0) FROM backfill_spent_weight WHERE expires_at > clock_timestamp()"
    waited = False
    async with asyncio.timeout(20):
        while (before := await ask(url, left)) > 0:
            waited = True
            share = await heir.agree()
            after = await ask(url, left)
            assert max(0, ALLOWED - before) <= share <= max(0, ALLOWED - after)
            await asyncio.sleep(0.02)
    assert waited
    assert await heir.agree() == ALLOWED


def test_the_dead_leave_their_share_and_an_overshoot_as_if_just_spent(migrated_url: str) -> None:
    """The last answer before its end may have exceeded the share, and nobody was told."""

    async def scenario() -> None:
        async with a_member(migrated_url, 1) as dead, a_member(migrated_url, 2) as heir:
            await dead.agree()
            await dead.spend(100, 100, 100)
            await dead.agree()
            await dead.spend(*[100] * 5)
            await dead.die()
            await heir.bury(dead, migrated_url)
            assert await books(migrated_url) == ALLOWED + OVERSHOOT_WEIGHT
            told = (
                "SELECT sum(weight) FROM backfill_spent_weight WHERE expires_at < clock_timestamp() + interval '57 s'"
            )
            assert await ask(migrated_url, told) in (None, 300)
            assert await heir.agree() == 0

    run(scenario())


def test_a_worker_that_had_no_share_leaves_no_more_than_it_told(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1) as dead, a_member(migrated_url, 2) as heir:
            await dead.agree()
            await dead.spend(100, 100, 100)
            with wanting(heir):
                await heir.agree()
                await dead.agree()
                assert await dead.agree() == 0
            await dead.die()
            await heir.bury(dead, migrated_url)
            assert await ask(migrated_url, "SELECT sum(weight) FROM backfill_spent_weight") == 300
            assert await heir.agree() == ALLOWED - 300

    run(scenario())


def test_what_has_expired_is_cleared_away(migrated_url: str) -> None:
    async def scenario() -> None:
        for number in range(1, 4):
            async with a_member(migrated_url, number, period=0.01) as member:
                await member.agree()
                await member.spend(BASE_WEIGHT)
                await member.leave()
                await until(
                    migrated_url, "SELECT count(*) = 0 FROM backfill_spent_weight WHERE expires_at > clock_timestamp()"
                )
        assert await ask(migrated_url, "SELECT count(*) FROM backfill_spent_weight") <= 1

    run(scenario())


# Workers that are not what they think


def test_a_worker_that_was_taken_over_is_told_and_spends_nothing_more(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_member(migrated_url, 1) as sleeper, a_member(migrated_url, 2) as heir:
            await sleeper.agree()
            await heir.claims._bury_the_dead()
            await tell(migrated_url, "UPDATE backfill_workers SET lease_expires_at = '2000-01-01' WHERE worker_id = 1")
            await heir.bury(sleeper, migrated_url)
            with pytest.raises(ClaimLost):
                await sleeper.agree()
            assert sleeper.share == 0
            with pytest.raises(ClaimLost):
                await sleeper.lane.keep()

    run(scenario())


def test_a_worker_buried_in_the_middle_of_its_report_gets_no_share(migrated_url: str) -> None:
    async def scenario() -> None:
        gravedigger = await asyncpg.connect(migrated_url)
        try:
            async with a_member(migrated_url, 1) as sleeper:
                async with gravedigger.transaction():
                    await gravedigger.execute(sql("retire_workers"), [1], OVERSHOOT_WEIGHT)
                    report = asyncio.create_task(sleeper.agree())
                    await waits_for_a_lock(migrated_url, sleeper)
                with pytest.raises(ClaimLost):
                    await report
                assert sleeper.share == 0
        finally:
            await gravedigger.close()

    run(scenario())


async def waits_for_a_lock(url: str, member: Member) -> None:
    waiting = f"SELECT count(*) > 0 FROM {OWN_SESSIONS} WHERE wait_event_type = 'Lock' AND application_name = $1"
    await until(url, waiting, *session_name(member.id).values())


def test_a_worker_stopped_inside_its_report_does_not_hold_the_others_up(migrated_url: str) -> None:
    """It has sent the report and reads no answer; its session lives on."""

    async def scenario() -> None:
        async with Proxy(migrated_url) as proxy, a_member(proxy.url, 1) as stopped, a_member(migrated_url, 2) as other:
            stop = proxy.once(the_report(), Fate.CLIENT_CUT)
            report = asyncio.create_task(stopped.agree())
            await stop.fired.wait()
            report.cancel()
            await asyncio.wait([report])
            await until(migrated_url, "SELECT share_weight > 0 FROM backfill_workers WHERE worker_id = 1")
            for _ in range(3):
                async with asyncio.timeout(10):
                    assert await other.agree() == 0
            alive = f"SELECT count(*) FROM {OWN_SESSIONS} WHERE application_name = $1"
            assert await ask(migrated_url, alive, *session_name(1).values()) == 1

    run(scenario())


def the_report() -> bytes:
    """The bytes of a report's arguments, on the wire: allowed and overshoot, each with its length."""
    return b"".join((4).to_bytes(4) + number.to_bytes(4) for number in (ALLOWED, OVERSHOOT_WEIGHT))


def test_a_worker_stopped_inside_its_commit_does_not_hold_the_others_up(migrated_url: str) -> None:
    """Its writer has touched the worker's row and can't commit; its own report waits for that, nobody else's does."""

    async def scenario() -> None:
        writer = await asyncpg.connect(migrated_url)
        try:
            async with a_member(migrated_url, 1) as stopped, a_member(migrated_url, 2) as other:
                async with writer.transaction():
                    await writer.execute(sql("number_batch"), 1, 1, timedelta(seconds=60))
                    report = asyncio.create_task(stopped.agree())
                    await waits_for_a_lock(migrated_url, stopped)
                    async with asyncio.timeout(10):
                        assert await other.agree() == ALLOWED
                assert await report == 0
        finally:
            await writer.close()

    run(scenario())


def test_a_report_whose_answer_was_lost_is_made_again_and_granted_once(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Proxy(migrated_url) as proxy, a_member(proxy.url, 1) as unlucky, a_member(migrated_url, 2) as other:
            with wanting(unlucky, other):
                await other.agree()
                for mine, theirs in ((0, HALF), (HALF, HALF)):
                    lost = proxy.once(the_report(), Fate.ANSWER_LOST)
                    assert await unlucky.agree() == mine
                    assert lost.fired.is_set()
                    assert await other.agree() == theirs
                assert await books(migrated_url) == 2 * HALF

    run(scenario())


def test_a_share_lapses_before_others_may_take_its_worker_for_dead(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the database is gone: what was agreed long ago may be somebody else's by now."""

    async def scenario() -> None:
        monkeypatch.setattr(lanes_module, "GRACE_SECONDS", 0.5)
        async with Proxy(migrated_url) as proxy, a_member(proxy.url, 1) as member:
            keeping = asyncio.create_task(member.lane.keep())
            await member.spend(*[BASE_WEIGHT] * 3)
            await proxy.refuse()
            proxy.cut()
            async with asyncio.timeout(10):
                while member.share:  # noqa: ASYNC110  a timer of the loop's ends it
                    await asyncio.sleep(0.01)
            keeping.cancel()
            await asyncio.wait([keeping])
            assert await ask(migrated_url, "SELECT share_weight FROM backfill_workers") == ALLOWED

    run(scenario())


def test_a_lane_that_is_kept_does_not_lapse(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(lanes_module, "REPORT_SECONDS", 0.2)
        async with a_member(migrated_url, 1, lease=4.0) as member:
            keeping = asyncio.create_task(member.lane.keep())
            await member.spend(BASE_WEIGHT)
            first = member.lane._lapse
            async with asyncio.timeout(10):
                while member.lane._lapse is first:  # noqa: ASYNC110  the lane's task replaces it
                    await asyncio.sleep(0.01)
            assert first is not None
            assert first.cancelled()
            assert member.share == ALLOWED
            keeping.cancel()
            await asyncio.wait([keeping])

    run(scenario())


# All at once


def test_reports_at_the_same_time_never_grant_more_than_there_is(migrated_url: str) -> None:
    async def scenario() -> None:
        rng = random.Random(4)
        async with a_crowd(migrated_url, 10) as crowd:
            watching = asyncio.create_task(never_more_than_allowed(migrated_url))
            for _ in range(25):
                tasks = [hungry(member) for member in rng.sample(crowd, rng.randint(0, 10))]
                await asyncio.gather(*(member.agree() for member in crowd))
                spenders = [member for member in crowd if member.share >= BASE_WEIGHT and rng.random() < 0.5]
                tasks += [asyncio.create_task(member.spend(rng.choice([20, 20, 57, 120]))) for member in spenders]
                await asyncio.sleep(0.01)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert await books(migrated_url) <= ALLOWED + OVERSHOOT_WEIGHT
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching

    run(scenario())


async def never_more_than_allowed(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        while True:
            assert await connection.fetchval(BOOKS, "one") <= ALLOWED + OVERSHOOT_WEIGHT
            await asyncio.sleep(0.001)
    finally:
        await connection.close()


@asynccontextmanager
async def a_crowd(url: str, size: int, *, period: float = 60.0) -> AsyncIterator[list[Member]]:
    """Workers 1 to `size` of one lane."""
    if size == 0:
        yield []
        return
    async with a_crowd(url, size - 1, period=period) as others, a_member(url, size, period=period) as last:
        yield [*others, last]


def test_workers_that_come_rest_die_and_return_never_have_more_than_there_is(migrated_url: str) -> None:
    async def scenario() -> None:
        rng = random.Random(9)
        numbers: Iterator[int] = iter(range(1, 1000))
        alive: dict[int, Member] = {}
        ways: dict[int, object] = {}
        watching = asyncio.create_task(never_more_than_allowed(migrated_url))
        async with a_member(migrated_url, 5000, period=SHORT_SECONDS) as undertaker:
            await undertaker.agree()
            for _ in range(60):
                act = rng.choice(["come", "come", "spend", "spend", "spend", "leave", "die"])
                if act == "come" and len(alive) < 5:
                    number = next(numbers)
                    way = a_member(migrated_url, number, period=SHORT_SECONDS)
                    alive[number], ways[number] = await way.__aenter__(), way
                elif alive and act == "spend":
                    member = rng.choice([*alive.values()])
                    if member.share >= BASE_WEIGHT:
                        await member.spend(rng.choice([20, 120]))
                elif alive and act in ("leave", "die"):
                    member = alive.pop(rng.choice([*alive]))
                    if act == "leave":
                        await member.leave()
                        await member.die()
                    else:
                        await member.die()
                        await undertaker.bury(member, migrated_url)
                for member in rng.sample([*alive.values()], len(alive)):
                    await member.agree()
            for member in alive.values():
                await member.leave()
                await member.die()
            await until_share(undertaker, ALLOWED)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    run(scenario())


def test_more_workers_than_the_overshoot_leaves_room_for_wait_until_others_rest(migrated_url: str) -> None:
    async def scenario() -> None:
        async with a_crowd(migrated_url, 15, period=SHORT_SECONDS) as crowd:
            tasks = [hungry(member) for member in crowd]
            for _ in range(3):
                for member in crowd:
                    await member.agree()
                assert await ask(migrated_url, MAY_BE_SPENT, "one") <= ALLOWED
            async with asyncio.timeout(30):
                while not all(task.done() for task in tasks):
                    await asyncio.gather(*(member.agree() for member in crowd))
                    assert await ask(migrated_url, MAY_BE_SPENT, "one") <= ALLOWED + OVERSHOOT_WEIGHT
            assert [task.exception() for task in tasks] == [None] * 15

    run(scenario())


# The ledger of the limiter's own tests


@pytest.mark.parametrize("seed", range(5))
def test_the_ledger_that_the_limiter_is_proven_with_is_the_databases_arithmetic(migrated_url: str, seed: int) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(migrated_url)
        try:
            await compare_with_ledger(connection, random.Random(seed))
        finally:
            await connection.close()

    run(scenario())


async def compare_with_ledger(connection: Connection, rng: random.Random) -> None:
    """One history for both; nothing expires in it."""
    ledger, now, period = LaneLedger(), 0.0, 10_000.0
    overshoot, allowed = OVERSHOOT_WEIGHT, rng.choice([ALLOWED, 300])
    for _ in range(60):
        worker, act = rng.randint(1, 4), rng.random()
        if act < 0.1 and worker in ledger.rows:
            await connection.execute(sql("retire_workers"), [worker], overshoot)
            ledger.bury(now, worker)
        elif act < 0.3 and worker not in ledger.rows:
            await connection.execute(sql("register_worker"), worker, "host", 1, timedelta(hours=1), "one")
            ledger.join(worker)
        else:
            told = [(rng.randint(0, 120), rng.uniform(5000, period)) for _ in range(rng.randint(0, 3))]
            used = sum(weight for weight, _ in told) + FULL_PAGE_WEIGHT * rng.randint(0, 2)
            wanted, held, is_hungry = (
                rng.randint(0, allowed),
                rng.choice([0, 0, rng.randint(0, 99)]),
                rng.random() < 0.6,
            )
            granted = await connection.fetchval(
                sql("take_share"), worker, wanted, held, allowed, overshoot, is_hungry, used, timedelta(seconds=period),
                [weight for weight, _ in told], [left for _, left in told],
            )  # fmt: skip
            expected = ledger.take_share(now, worker, wanted, held, allowed, overshoot, is_hungry, used, period, told)
            assert granted == expected
        for other in ledger.rows:
            assert await connection.fetchval(sql("lane_others"), other) == ledger.hungry_others(other)
        assert await connection.fetchval(BOOKS, "one") == ledger.claimed(now)
