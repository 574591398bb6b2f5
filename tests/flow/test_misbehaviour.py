"""An exchange that misbehaves, one kind of fault after the other, from the socket to the tables.

Met once, a fault costs a try and no row. Met for ever, it costs one user, who is parked with the
reason until somebody says `retry`. What was met is counted in the database, where `status` reads it.
"""

from __future__ import annotations

import asyncio
import math
import signal
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.kit.backfill import WINDOW, ask, backfill, compared, everybody, settings_for, small
from tests.kit.command import environment, start, stopped, vigil
from tests.kit.hostile import free_port
from tests.kit.loop import run
from vigil.claims import Window
from vigil.db import session
from vigil.errors import ExchangeThrottled, ExchangeUnavailable, Fault
from vigil.pipeline import Run
from vigil.simulator import FaultPlan, Simulator, SimulatorConfig, UserFault
from vigil.simulator.faults import KINDS
from vigil.status import Status, read_status
from vigil.tally import Tally

PAGE_ROWS = 500
USERS = 8
LONG, SHORT = 1_100, 40  # rows: of three pages, and of one
LATE_SECONDS = 0.7  # a timeout that an honest answer may exceed on a busy machine; it is asked for again then
HUGE_BYTES = 100 << 20


@dataclass(frozen=True)
class Meeting:
    """What a kind of fault counts as, and what a user is told whom it meets for ever (None: that goes well)."""

    fault: Fault
    reason: str | None = None
    requests: int = 1  # of the long history, until one is spoiled
    settings: dict[str, Any] = field(default_factory=dict)


LATE = {"request_timeout_seconds": LATE_SECONDS}
MEETINGS = {
    "429": Meeting(Fault.THROTTLED),
    "500": Meeting(Fault.ERROR_STATUS, "The exchange answers with status 500."),
    "502": Meeting(Fault.ERROR_STATUS, "The exchange answers with status 502."),
    "403": Meeting(Fault.ERROR_STATUS, "The exchange answers with status 403."),
    "redirect": Meeting(Fault.REDIRECTED, "The exchange answers with status 307."),
    "html200": Meeting(Fault.MALFORMED, "The exchange answered 200, but the body is not JSON"),
    "notlist": Meeting(Fault.MALFORMED, "The exchange answered 200, but the body is a JSON dict, not an array."),
    "deep": Meeting(Fault.MALFORMED, "The exchange answered 200, but the body is not JSON (RecursionError)."),
    "huge": Meeting(Fault.TOO_LARGE, "The answer is larger than 1048576 bytes", settings={"max_body_bytes": 1 << 20}),
    "cut": Meeting(Fault.BROKEN_OFF, "The exchange's answer broke off"),
    "overlong": Meeting(Fault.BROKEN_OFF, "The exchange's answer broke off"),
    "tooshort": Meeting(Fault.BROKEN_OFF, "The exchange's answer broke off"),
    "reset": Meeting(Fault.BROKEN_OFF, "The exchange's answer broke off"),
    "hang": Meeting(Fault.LATE, "The exchange did not finish its answer within", settings=LATE),
    "drip": Meeting(Fault.LATE, "The exchange did not finish its answer within", settings=LATE),
    "trickle": Meeting(Fault.LATE, "The exchange did not finish its answer within", settings=LATE),
    "disorder": Meeting(Fault.OUT_OF_ORDER, "The exchange's answer can't be right: a row of"),
    "stuck": Meeting(Fault.NOT_ADVANCING, "500 rows, none of them later than", requests=2),
    "hole": Meeting(Fault.OVERLAP_MISSING, requests=2),
    "outside": Meeting(Fault.OUT_OF_WINDOW_ROWS),
    "duplicate": Meeting(Fault.DUPLICATE_ROWS),
    "numbers": Meeting(Fault.ODD_ROWS),
}
"""By kind of the simulator, those after which the table is the truth."""
OF_THEIR_OWN = {"422", "nan", "another"}


def population(**changes: Any) -> SimulatorConfig:
    """Some users: the first with three pages, the second with one, the others anyhow."""
    return small(USERS, 71, **{"lengths": {0: LONG, 1: SHORT}, "page_rows": PAGE_ROWS, "scale": 0.05, **changes})


def plan(**changes: Any) -> FaultPlan:
    """Drips of a byte a second and pages of 100 MB, as long as they last."""
    return FaultPlan(**{"drip_seconds": 3_600.0, "huge_bytes": HUGE_BYTES, **changes})


async def status_of(url: str) -> Status:
    async with session(url) as connection:
        return await read_status(connection)


async def counted(url: str) -> dict[str, int]:
    """The faults in the database, those that were met."""
    return {kind: count for kind, count in (await status_of(url)).faults.items() if count}


async def in_order(config: SimulatorConfig) -> list[str]:
    """The users in the order in which a run claims them when they are named."""
    async with Simulator(config) as exchange:
        return sorted(everybody(exchange))


async def is_truth(exchange: Simulator, url: str) -> None:
    found = await compared(exchange, url)
    assert found.equal, found.examples
    assert found.rows > LONG


# Met now and then


def test_every_kind_of_fault_the_simulator_knows_is_met_here() -> None:
    assert set(KINDS) == set(MEETINGS) | OF_THEIR_OWN


@pytest.mark.parametrize("kind", MEETINGS)
def test_met_once_it_costs_a_try_and_no_row_and_is_counted(migrated_url: str, kind: str) -> None:
    meeting = MEETINGS[kind]

    async def scenario() -> None:
        probe = Simulator(population()).population
        rules = {
            probe.address(0): UserFault(kind, meeting.requests),
            probe.address(1): UserFault(kind, 1),
        }
        async with Simulator(population(faults=plan(per_user=rules))) as exchange:
            tally = await backfill(exchange, migrated_url, **meeting.settings)
            assert (tally.users_done, tally.users_failed, tally.gaps, tally.exit_code) == (USERS, 0, 0, 0)
            await is_truth(exchange, migrated_url)
            met = exchange.stats.faults[kind]
            assert met == (1 if meeting.requests == 2 else 2)
        faults = await counted(migrated_url)
        if kind == "tooshort":  # where the rest is not there yet, it is a page that ends in mid-row
            faults[Fault.BROKEN_OFF] = faults.get(Fault.BROKEN_OFF, 0) + faults.pop(Fault.MALFORMED, 0)
        if kind == "duplicate":  # two or three rows of each page
            assert met < faults[Fault.DUPLICATE_ROWS] <= 3 * met
            met = faults[Fault.DUPLICATE_ROWS]
        if meeting.fault is Fault.LATE:
            assert faults[Fault.LATE] >= met
            met = faults[Fault.LATE]
        if kind == "numbers":  # every row of both pages
            met = PAGE_ROWS + SHORT
        assert faults == {meeting.fault: met}

    run(scenario())


def test_all_of_it_at_once_and_for_everybody_costs_time_but_no_row(migrated_url: str) -> None:
    harmless = set(MEETINGS) - {"hole"}  # met twice in a row, that one is believed
    chances = dict.fromkeys(sorted(harmless), 0.03)

    async def scenario() -> None:
        config = small(60, 72, lengths={0: LONG}, page_rows=PAGE_ROWS, scale=0.05, faults=plan(chances=chances, seed=2))
        async with Simulator(config) as exchange:
            tally = await backfill(
                exchange, migrated_url, request_tries=30, max_body_bytes=1 << 20, request_timeout_seconds=LATE_SECONDS
            )
            assert (tally.users_done, tally.exit_code) == (60, 0)
            await is_truth(exchange, migrated_url)
            met = exchange.stats.faults
        faults = await counted(migrated_url)
        assert met.total() > 30
        assert faults[Fault.THROTTLED] == met["429"]
        assert faults[Fault.REDIRECTED] == met["redirect"]
        assert faults[Fault.TOO_LARGE] == met["huge"]
        assert faults[Fault.ERROR_STATUS] == met["500"] + met["502"] + met["403"]

    run(scenario())


def test_a_storm_of_429s_is_waited_out_by_everybody(migrated_url: str) -> None:
    async def scenario() -> None:
        faults = plan(chances={"429": 0.1}, storm_seconds=0.3, seed=1)
        async with Simulator(population(faults=faults)) as exchange:
            tally = await backfill(exchange, migrated_url, request_tries=1)
            assert (tally.users_done, tally.exit_code) == (USERS, 0)
            await is_truth(exchange, migrated_url)
            assert tally.pauses > 1
            assert await counted(migrated_url) == {Fault.THROTTLED: exchange.stats.faults["429"]}

    run(scenario())


def test_an_exchange_that_is_not_there_yet_is_waited_for_and_counted(migrated_url: str) -> None:
    async def scenario() -> None:
        exchange = Simulator(population(), port=free_port())
        job = Run(settings_for(exchange, startup_patience_seconds=10), migrated_url, WINDOW, users=everybody(exchange))
        running = asyncio.create_task(job.execute())
        async with asyncio.timeout(10):
            while not job._api.faults[Fault.UNREACHABLE]:  # noqa: ASYNC110  a counter has no event
                await asyncio.sleep(0.01)
        async with exchange:
            tally = await running
            assert (tally.users_done, tally.exit_code) == (USERS, 0)
            await is_truth(exchange, migrated_url)
        assert list(await counted(migrated_url)) == [Fault.UNREACHABLE]

    run(scenario())


def test_429s_for_longer_than_the_patience_end_the_run_with_nobody_blamed(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(population(faults=plan(chances={"429": 1.0}))) as exchange:
            with pytest.raises(ExchangeThrottled) as caught:
                await backfill(exchange, migrated_url, outage_patience_seconds=0.3)
            assert (caught.value.exit_code, caught.value.hint != "") == (5, True)
            assert (await counted(migrated_url))[Fault.THROTTLED] == exchange.stats.faults["429"]
        status = await status_of(migrated_url)
        assert (status.pending, status.failed) == (USERS, 0)
        assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 0

    run(scenario())


# Rows that are not what they should be


def test_rows_without_numbers_are_kept_aside_with_the_reason_and_the_others_are_stored(migrated_url: str) -> None:
    async def scenario() -> None:
        probe = Simulator(population()).population
        users = [probe.address(0), probe.address(1)]
        rules = {user: UserFault("nan", 1) for user in users}
        async with Simulator(population(faults=plan(per_user=rules))) as exchange:
            tally = await backfill(exchange, migrated_url)
            assert (tally.users_done, tally.exit_code, tally.rejected) == (USERS, 0, 10)
            assert await counted(migrated_url) == {Fault.REJECTED_ROWS: 10}
            assert (await status_of(migrated_url)).rejected_fills == 10
            found = await compared(exchange, migrated_url)
            assert found.extra == 0
            # A page begins where the last one ended, so the row there may have been served again, and well.
            unstored = (
                "SELECT count(*) FROM rejected_fills AS r WHERE NOT EXISTS (SELECT FROM fills AS f"
                " WHERE f.user_address = r.user_address AND f.oid::text = r.raw::json->>'oid'"
                " AND f.tid::text = r.raw::json->>'tid')"
            )
            assert found.missing == await ask(migrated_url, unstored) >= 9
            reasons = await ask(migrated_url, "SELECT array_agg(reason) FROM rejected_fills WHERE time_ms IS NOT NULL")
            assert len(reasons) == 8
            for member in ("px", "sz", "fee", "closedPnl"):
                assert sum(f"`{member}`" in reason for reason in reasons) == 2, reasons
            # Served again, and well: a wider window has every page read anew.
            await backfill(exchange, migrated_url, window=Window(WINDOW.start_ms - 1, WINDOW.end_ms))
            await is_truth(exchange, migrated_url)

    run(scenario())


def test_numbers_as_text_and_back_are_the_same_values(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(population(faults=plan(chances={"numbers": 1.0}))) as exchange:
            await backfill(exchange, migrated_url)
            await is_truth(exchange, migrated_url)
            assert await counted(migrated_url) == {Fault.ODD_ROWS: exchange.stats.rows_served}
        earlier = Window(WINDOW.start_ms - 1, WINDOW.end_ms)
        async with Simulator(population()) as exchange:
            back = await backfill(exchange, migrated_url, window=earlier)
            assert (back.inserted, back.updated, back.already_there) == (0, 0, back.received)
            await is_truth(exchange, migrated_url)

    run(scenario())


class Sliding(Simulator):
    """Every request comes an hour after the one before, however fast the machine is."""

    def now_ms(self) -> int:
        return self.config.start_now_ms + 3_600_000 * self.stats.requests


def test_retention_that_slides_is_a_gap_and_counted(migrated_url: str) -> None:
    async def scenario() -> None:
        config = small(
            1, 10, lengths={0: 6_000}, retention_rows=3_000, page_rows=PAGE_ROWS, moving=1.0, moving_fills_per_hour=750
        )
        async with Sliding(config) as exchange:
            there = [row["time"] for row in exchange.population.fills(0)[-3_000 + 750 :]]  # at the first request
            tally = await backfill(exchange, migrated_url)
            assert (tally.users_done, tally.inserted, tally.exit_code) == (1, 2 * PAGE_ROWS, 0)
        # It takes 750 rows an hour, and a page has 500: each edge is looked at twice, and believed then.
        assert tally.gaps == (await status_of(migrated_url)).gaps == 2
        assert await counted(migrated_url) == {Fault.OVERLAP_MISSING: 2}
        async with session(migrated_url) as connection:
            times = await connection.fetch("SELECT (extract(epoch FROM time) * 1000)::bigint AS ms FROM fills")
            gaps = await connection.fetch("SELECT from_ms, to_ms FROM backfill_gaps WHERE kind = 'retention'")
        lost = list((Counter(there) - Counter(row["ms"] for row in times)).elements())
        assert len(lost) == len(there) - 2 * PAGE_ROWS
        assert [time for time in lost if not any(gap["from_ms"] <= time <= gap["to_ms"] for gap in gaps)] == []

    run(scenario())


def test_rows_gone_behind_the_cursor_for_good_are_a_gap_at_each_edge(migrated_url: str) -> None:
    async def scenario() -> None:
        user = Simulator(population()).population.address(0)
        async with Simulator(population(faults=plan(per_user={user: UserFault("hole")}))) as exchange:
            tally = await backfill(exchange, migrated_url)
            edges = LONG // PAGE_ROWS
            assert (tally.users_done, tally.gaps, tally.exit_code) == (USERS, edges, 0)
            assert await counted(migrated_url) == {Fault.OVERLAP_MISSING: edges}
            recorded = "SELECT count(*) FROM backfill_gaps WHERE user_address = $1 AND kind = 'retention'"
            assert await ask(migrated_url, recorded, user) == edges
            assert (await compared(exchange, migrated_url)).extra == 0

    run(scenario())


# Somebody else's answer


def test_the_answer_for_a_user_seen_before_is_noticed_and_asked_for_again(migrated_url: str) -> None:
    async def scenario() -> None:
        victim, _ = await strangers(later=True)
        config = population(faults=plan(per_user={victim: UserFault("another", 2)}))
        async with Simulator(config) as exchange:
            tally = await backfill(exchange, migrated_url, users=sorted(everybody(exchange)), concurrency=1)
            assert (tally.users_done, tally.exit_code) == (USERS, 0)
            await is_truth(exchange, migrated_url)
            assert await counted(migrated_url) == {Fault.ANOTHER_USER: 2}

    run(scenario())


def test_the_answer_for_a_user_not_seen_before_is_noticed_when_that_one_is_read(migrated_url: str) -> None:
    """It can't be told from a right one; what can be told is that two users can't own one fill."""

    async def scenario() -> None:
        victim, other = await strangers(later=False)
        async with Simulator(population(faults=plan(per_user={victim: UserFault("another", 1)}))) as exchange:
            named = sorted(everybody(exchange))
            tally = await backfill(exchange, migrated_url, users=named, concurrency=1, request_tries=3)
            assert (tally.users_done, tally.users_failed, tally.exit_code) == (USERS - 1, 1, 3)
            assert await counted(migrated_url) == {Fault.ANOTHER_USER: 3}
            (failed,) = (await status_of(migrated_url)).errors
            assert failed["user_address"] == other
            assert f"holds a fill that it gave to {victim} before" in failed["last_error"]
            again = await backfill(exchange, migrated_url, users=named)
            assert (again.users_done, again.exit_code) == (1, 0)
            # The other's rows stay under the victim's name, who lacks its own, until its window is read anew.
            found = await compared(exchange, migrated_url)
            lacking = len(exchange.truth(victim, WINDOW.start_ms, WINDOW.end_ms - 1))
            strange = min(PAGE_ROWS, len(exchange.truth(other, WINDOW.start_ms, WINDOW.end_ms - 1)))
            assert (found.missing, found.extra) == (lacking, strange)
            assert {address for address, _, _ in found.examples} == {victim}
            await backfill(exchange, migrated_url, window=Window(WINDOW.start_ms - 1, WINDOW.end_ms))
            found = await compared(exchange, migrated_url)
            assert (found.missing, found.extra) == (0, strange)

    run(scenario())


async def strangers(*, later: bool) -> tuple[str, str]:
    """A user with less than a page, and the next one that has fills; claimed `later` or earlier than that one."""
    async with Simulator(population()) as exchange:
        users = everybody(exchange)
        for at, user in enumerate(users):
            rows = [len(exchange.truth(one, WINDOW.start_ms, WINDOW.end_ms - 1)) for one in (user, *users[at + 1 :])]
            if not 0 < rows[0] < PAGE_ROWS or len(rows) == 1:
                continue
            other = next(one for one, there in zip(users[at + 1 :], rows[1:], strict=True) if there)
            if (user > other) == later:
                return user, other
    raise AssertionError("no such pair")


# Met for ever


FOR_EVER = {kind: meeting for kind, meeting in MEETINGS.items() if meeting.reason is not None} | {
    "422": Meeting(Fault.REFUSED, "The exchange refuses the request with status 422: 'Failed to deserialize")
}
CROWD = 2 * len(FOR_EVER)


def crowd(**changes: Any) -> SimulatorConfig:
    lengths = dict.fromkeys(range(len(FOR_EVER)), SHORT) | {sorted(FOR_EVER).index("stuck"): LONG}
    return small(CROWD, 73, lengths=lengths, page_rows=PAGE_ROWS, scale=0.05, **changes)


async def failures(url: str) -> dict[str, tuple[int, str]]:
    async with session(url) as connection:
        query = "SELECT user_address, attempts, last_error FROM backfill_progress WHERE state = 'failed'"
        return {row["user_address"]: (row["attempts"], row["last_error"]) for row in await connection.fetch(query)}


def test_met_for_ever_it_parks_one_user_with_the_reason_until_retry(migrated_url: str) -> None:
    """Every kind has a victim of its own; the others are read."""
    attempts = 2
    impatient: dict[str, Any] = {"request_tries": 2, "max_body_bytes": 1 << 20, "request_timeout_seconds": 1.0}

    async def scenario() -> None:
        probe = Simulator(crowd()).population
        victims = {probe.address(at): kind for at, kind in enumerate(sorted(FOR_EVER))}
        rules = {user: UserFault(kind) for user, kind in victims.items()}
        async with Simulator(crowd(faults=plan(per_user=rules))) as exchange:
            for attempt in range(1, attempts + 1):
                tally = await backfill(exchange, migrated_url, user_attempts=attempts, **impatient)
                read = CROWD - len(victims) if attempt == 1 else 0
                assert (tally.users_done, tally.users_failed, tally.exit_code) == (read, len(victims), 3)
                failed = await failures(migrated_url)
                assert set(failed) == set(victims)
                for user, (tries, reason) in failed.items():
                    assert tries == attempt
                    assert (FOR_EVER[victims[user]].reason or "") in reason, victims[user]
            assert set(await counted(migrated_url)) == {meeting.fault for meeting in FOR_EVER.values()}
        async with Simulator(crowd()) as exchange:
            env = environment(migrated_url, exchange, VIGIL_USER_ATTEMPTS=attempts)
            parked = await vigil("run", env=env)
            assert (parked.code, exchange.stats.requests) == (3, 0), parked.err
            taken_up = await vigil("retry", env=env)
            assert taken_up.code == 0, taken_up.err
            await is_truth(exchange, migrated_url)
            assert await failures(migrated_url) == {}
            assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 0

    run(scenario())


def test_pages_without_end_do_not_fill_the_memory(migrated_url: str) -> None:
    """Three users are sent 100 MB each, at once and again and again."""

    async def scenario() -> None:
        probe = Simulator(population()).population
        rules = {probe.address(at): UserFault("huge") for at in range(3)}
        async with Simulator(population(faults=plan(per_user=rules))) as exchange:
            tracemalloc.start()
            try:
                tally = await backfill(exchange, migrated_url, request_tries=2, max_body_bytes=4 << 20)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert (tally.users_done, tally.users_failed, tally.exit_code) == (USERS - 3, 3, 3)
            assert await counted(migrated_url) == {Fault.TOO_LARGE: exchange.stats.faults["huge"]}
            assert exchange.stats.faults["huge"] == 6
            assert peak < HUGE_BYTES // 3  # with what the simulator holds

    run(scenario())


def test_an_interruption_costs_a_failing_user_no_attempt(migrated_url: str) -> None:
    async def scenario() -> None:
        victim = Simulator(population()).population.address(1)
        row = "SELECT attempts || ' ' || state FROM backfill_progress WHERE user_address = $1"
        async with Simulator(population(faults=plan(per_user={victim: UserFault("hang")}))) as exchange:
            first = await backfill(exchange, migrated_url, request_tries=1, request_timeout_seconds=1.5)
            assert (first.users_done, first.exit_code) == (USERS - 1, 3)
            assert await ask(migrated_url, row, victim) == "1 failed"
            env = environment(migrated_url, exchange, VIGIL_REQUEST_TIMEOUT_SECONDS=60)
            for signum, code, state in ((signal.SIGINT, 130, "pending"), (signal.SIGKILL, -9, "claimed")):
                held = exchange.stats.faults["hang"]
                process = await start("run", env=env)
                async with asyncio.timeout(20):
                    while exchange.stats.faults["hang"] == held:  # noqa: ASYNC110  another process asks
                        await asyncio.sleep(0.01)
                outcome = await stopped(process, signum)
                assert outcome.code == code, outcome.err
                assert await ask(migrated_url, row, victim) == f"1 {state}"
        async with Simulator(population()) as exchange:
            outcome = await vigil("run", env=environment(migrated_url, exchange))
            assert outcome.code == 0, outcome.err
            assert await ask(migrated_url, row, victim) == "0 completed"
            await is_truth(exchange, migrated_url)

    run(scenario())


# Met by many in a row: it is the exchange, not they


class Outage(dict[str, float]):
    """502 for everybody, from the second request on, for so many requests."""

    def __init__(self, requests: float) -> None:
        super().__init__({"502": 1.0})
        self._left = requests
        self._seen = 0

    def items(self) -> Any:
        self._seen += 1
        self._left -= self._seen > 1
        return {"502": float(self._seen > 1 and self._left >= 0)}.items()


async def outage(url: str, *, requests: float) -> Tally:
    """The first user is answered, then nobody for so many requests; one try each."""
    users = await in_order(small(30, 4))
    async with Simulator(small(30, 4, faults=plan(chances=Outage(requests)))) as exchange:
        return await backfill(exchange, url, users=users, concurrency=1, request_tries=1, batch_seconds=2)


def test_an_outage_at_the_end_of_a_run_blames_nobody_and_ends_it_with_5(migrated_url: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ExchangeUnavailable, match="no usable answer for 29 users in a row") as caught:
            await outage(migrated_url, requests=math.inf)
        assert (caught.value.exit_code, caught.value.hint != "") == (5, True)
        status = await status_of(migrated_url)
        assert (status.completed, status.pending, status.failed) == (1, 29, 0)
        assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 0
        met = await counted(migrated_url)
        assert met.keys() == {Fault.ERROR_STATUS}
        assert 29 <= met[Fault.ERROR_STATUS] <= 31  # who was read is asked for twice, if committed by then

    run(scenario())


def test_an_outage_that_passes_blames_nobody_and_everybody_is_read_after_it(migrated_url: str) -> None:
    async def scenario() -> None:
        tally = await outage(migrated_url, requests=27)
        assert (tally.users_done, tally.users_failed, tally.exit_code) == (30, 0, 0)
        status = await status_of(migrated_url)
        assert (status.completed, status.pending, status.failed) == (30, 0, 0)
        assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 0

    run(scenario())


def test_as_many_users_as_make_an_outage_are_parked_where_others_are_answered(migrated_url: str) -> None:
    async def scenario() -> None:
        config = small(40, 4)
        users = await in_order(config)
        rules = {user: UserFault("500") for user in users[5:30]}
        async with Simulator(small(40, 4, faults=plan(per_user=rules))) as exchange:
            for attempts in (1, 2):
                tally = await backfill(exchange, migrated_url, request_tries=1, user_attempts=2)
                assert (tally.users_failed, tally.exit_code) == (25, 3)
                assert await ask(migrated_url, "SELECT sum(attempts) FROM backfill_progress") == 25 * attempts
            parked = await backfill(exchange, migrated_url, request_tries=1, user_attempts=2)
            assert (parked.requests, parked.users_left_failed, parked.exit_code) == (0, 25, 3)

    run(scenario())
