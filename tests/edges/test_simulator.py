"""The simulated exchange over real sockets: what a client meets, and what was recorded."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from vigil.errors import UsageError
from vigil.simulator import FaultPlan, Recording, Simulator, SimulatorConfig, UserFault, serve

REFUSAL = "Failed to deserialize the JSON body into the target type"
END_MS = 1_753_574_400_000
REAL_FILLS = Path(
    os.environ.get("VIGIL_REAL_FILLS") or Path(__file__).resolve().parents[2].parent / "shared" / "real_fills"
)
needs_real_fills = pytest.mark.skipif(
    not REAL_FILLS.is_dir(), reason=f"NO RECORDED ANSWERS at {REAL_FILLS}: set VIGIL_REAL_FILLS"
)

Row = dict[str, Any]
Body = Callable[[Simulator, aiohttp.ClientSession], Awaitable[None]]


def run(config: SimulatorConfig, body: Body) -> None:
    """Open a simulator and a client, run the test's body, and leave no task behind."""

    async def whole() -> None:
        async with Simulator(config) as simulator, aiohttp.ClientSession() as session:
            await body(simulator, session)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole(), debug=True)


def asked(user: str, start: int = 0, end: int | None = None, kind: str = "userFillsByTime") -> Row:
    return {"type": kind, "user": user, "startTime": start, **({} if end is None else {"endTime": end})}


async def post(
    simulator: Simulator, session: aiohttp.ClientSession, request: Row, headers: dict[str, str] | None = None
) -> list[Row]:
    async with session.post(simulator.url, json=request, headers=headers) as response:
        assert response.status == 200, await response.text()
        rows: list[Row] = await response.json()
        return rows


async def walk(simulator: Simulator, session: aiohttp.ClientSession, user: str, end: int | None) -> list[Row]:
    """A plain client: forward pages with an inclusive cursor, the overlap dropped by equality."""
    rows: list[Row] = []
    start = 0
    while True:
        page = await post(simulator, session, asked(user, start, end))
        fresh = [row for row in page if row["time"] > start or row not in rows]
        if not fresh:
            return rows
        rows += fresh
        start = rows[-1]["time"]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for the other end of a socket; fails after two seconds."""
    async with asyncio.timeout(2):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


# -- pages ------------------------------------------------------------------------------------


def test_a_page_is_the_earliest_rows_at_or_after_start() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(0)
        history = simulator.population.fills(0)
        assert await post(simulator, session, asked(user)) == history[:2_000]
        start = history[700]["time"]
        first = next(at for at, row in enumerate(history) if row["time"] == start)
        assert await post(simulator, session, asked(user, start)) == history[first : first + 2_000]
        later = await post(simulator, session, asked(user, start + 1))
        assert later[0]["time"] > start

    run(SimulatorConfig(users=2, lengths={0: 3_000}), body)


def test_both_ends_of_the_window_are_inclusive() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user, history = simulator.population.address(0), simulator.population.fills(0)
        start, end = history[10]["time"], history[20]["time"]
        expected = [row for row in history if start <= row["time"] <= end]
        assert await post(simulator, session, asked(user, start, end)) == expected
        assert simulator.truth(user, start, end) == expected
        assert (await post(simulator, session, asked(user, start, start)))[0]["time"] == start
        assert await post(simulator, session, asked(user, end, start - 1)) == []

    run(SimulatorConfig(users=2, lengths={0: 50}), body)


def test_walking_forward_with_an_inclusive_cursor_reaches_the_whole_truth() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        for index in range(6):
            user = simulator.population.address(index)
            assert await walk(simulator, session, user, END_MS) == simulator.truth(user, 0, END_MS)

    # Pages larger than the largest burst, or the walk could not pass it.
    run(SimulatorConfig(users=6, page_rows=150, lengths={n: 150 * n for n in range(6)}), body)


def test_stepping_past_the_last_millisecond_loses_rows() -> None:
    """Why the cursor is inclusive: the cap splits a millisecond, and `+ 1` skips its rest."""

    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user, rows, start = simulator.population.address(0), list[Row](), 0
        while page := await post(simulator, session, asked(user, start)):
            rows += page
            start = rows[-1]["time"] + 1
        assert len(rows) < len(simulator.truth(user, 0, None))

    run(SimulatorConfig(users=2, page_rows=50, lengths={0: 2_000}), body)


def test_a_saturated_millisecond_stops_an_inclusive_cursor() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(1)
        got = await walk(simulator, session, user, None)
        assert len(got) < len(simulator.truth(user, 0, None))
        stuck = await post(simulator, session, asked(user, got[-1]["time"]))
        assert {row["time"] for row in stuck} == {got[-1]["time"]}

    run(SimulatorConfig(users=2, saturated_users=(1,)), body)


def test_only_the_newest_rows_of_the_whole_history_are_reachable() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user, history = simulator.population.address(0), simulator.population.fills(0)
        assert await walk(simulator, session, user, None) == history[-100:]
        old_end = history[-101]["time"] - 1
        assert await post(simulator, session, asked(user, 0, old_end)) == []
        assert simulator.lost_rows(user, 0, None) == 300
        assert simulator.lost_rows(user, 0, old_end) == sum(row["time"] <= old_end for row in history)

    run(SimulatorConfig(users=2, lengths={0: 400}, retention_rows=100), body)


def test_who_trades_on_pushes_old_rows_out_of_reach() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(0)
        before = simulator.truth(user, 0, None)
        lost = simulator.lost_rows(user, 0, None)
        await asyncio.sleep(0.1)  # a hundred simulated seconds and more
        after = await post(simulator, session, asked(user))
        assert len(before) == len(after) == 100
        assert after[0] != before[0]
        assert simulator.lost_rows(user, 0, None) > lost
        assert after[-1]["time"] >= simulator.config.start_now_ms

    config = SimulatorConfig(
        users=2, lengths={0: 150}, retention_rows=100, moving=1.0, moving_fills_per_hour=3_600, speed=1_000.0
    )
    run(config, body)


def test_user_fills_are_the_newest_rows_newest_first() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        request = {"type": "userFills", "user": simulator.population.address(0)}
        assert await post(simulator, session, request) == simulator.population.fills(0)[:-2_001:-1]

    run(SimulatorConfig(users=2, lengths={0: 2_500}), body)


def test_strangers_and_idle_users_answer_an_empty_list() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        assert await post(simulator, session, asked("0x" + "ab" * 20)) == []
        assert await post(simulator, session, asked(simulator.population.address(0))) == []
        twaps = asked(simulator.population.address(1), kind="userTwapSliceFillsByTime")
        assert await post(simulator, session, twaps) == []

    run(SimulatorConfig(users=2, lengths={0: 0, 1: 9}), body)


def test_an_address_in_capitals_is_the_same_user() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(0)
        assert len(await post(simulator, session, asked("0x" + user[2:].upper()))) == 9

    run(SimulatorConfig(users=1, lengths={0: 9}), body)


# -- refusals and weight ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe",
        b'{"type":"meta"}',
        b'{"type":"userFillsByTime","user":"0x12","startTime":0}',
        b'{"type":"userFillsByTime","user":"0x' + b"a" * 40 + b'"}',
        b'{"type":"userFillsByTime","user":"0x' + b"a" * 40 + b'","startTime":"0"}',
        b'{"type":"userFillsByTime","user":"0x' + b"a" * 40 + b'","startTime":-1}',
        b'{"type":"userFillsByTime","user":"0x' + b"a" * 40 + b'","startTime":1.5}',
        b'{"type":"userFillsByTime","user":"0x' + b"a" * 40 + b'","startTime":0,"endTime":true}',
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused_with_a_text(body: bytes) -> None:
    async def ask(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        async with session.post(simulator.url, data=body) as response:
            assert (response.status, await response.text()) == (422, REFUSAL)

    run(SimulatorConfig(users=1), ask)


def test_aggregation_is_refused_rather_than_faked() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        request = {**asked("0x" + "ab" * 20), "aggregateByTime": True}
        async with session.post(simulator.url, json=request) as response:
            assert response.status == 422
        assert await post(simulator, session, {**request, "aggregateByTime": False}) == []

    run(SimulatorConfig(users=1), body)


@pytest.mark.parametrize("retry_after", [None, 7])
def test_over_the_budget_is_429_null_without_headers_unless_told(retry_after: int | None) -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(0)
        assert len(await post(simulator, session, asked(user))) == 41
        assert [weight for _, weight in simulator.charges] == [20, 3]
        await post(simulator, session, asked(user, END_MS * 2))  # nothing there: the arrival alone
        assert [weight for _, weight in simulator.charges] == [20, 3, 20]
        async with session.post(simulator.url, json=asked(user)) as response:
            assert (response.status, await response.text()) == (429, "null")
            assert response.headers.get("Retry-After") == (str(retry_after) if retry_after else None)
        assert (simulator.stats.throttled, simulator.stats.weight_spent) == (1, 43)

    run(SimulatorConfig(users=2, lengths={0: 41}, weight_per_minute=60, retry_after=retry_after), body)


def test_the_budget_comes_back_after_the_period() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        async def status() -> int:
            async with session.post(simulator.url, json=asked("0x" + "ab" * 20)) as response:
                return response.status

        assert [await status(), await status()] == [200, 429]
        await asyncio.sleep(0.35)
        assert await status() == 200

    run(SimulatorConfig(users=1, weight_per_minute=20, period_seconds=0.3), body)


def test_answers_are_compressed_only_for_who_takes_gzip() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        request = asked(simulator.population.address(0))
        for encoding, expected in (("gzip", "gzip"), ("identity", None)):
            headers = {"Accept-Encoding": encoding}
            async with session.post(simulator.url, json=request, headers=headers) as response:
                assert response.headers.get("Content-Encoding") == expected
                assert await response.json() == simulator.population.fills(0)

    run(SimulatorConfig(users=2, lengths={0: 100}), body)


def test_latency_delays_each_answer() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        started = time.monotonic()
        await post(simulator, session, asked("0x" + "ab" * 20))
        assert time.monotonic() - started >= 0.05

    run(SimulatorConfig(users=1, latency_seconds=(0.05, 0.06)), body)


def test_a_full_page_costs_the_server_few_milliseconds() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        request = asked(simulator.population.address(0))
        await post(simulator, session, request)
        started = time.process_time()
        for _ in range(10):
            async with session.post(simulator.url, json=request) as response:
                await response.read()  # unpacked by the client, which is in this time too
        assert (time.process_time() - started) / 10 < 0.06

    # No debug mode of asyncio here would be fairer; the bound is wide for busy machines.
    run(SimulatorConfig(users=2, lengths={0: 2_500}, weight_per_minute=0), body)


# -- faults -----------------------------------------------------------------------------------


def faulty(kind: str, **plan: Any) -> SimulatorConfig:
    return SimulatorConfig(users=2, lengths={0: 60}, faults=FaultPlan({kind: 1.0}, **plan))


@pytest.mark.parametrize(
    ("kind", "status", "content_type", "start"),
    [
        ("429", 429, "application/json", "null"),
        ("500", 500, "application/json", "null"),
        ("502", 502, "text/html", "<html>"),
        ("403", 403, "text/html", "<!DOCTYPE HTML"),
        ("html200", 200, "text/html", "<!doctype html>"),
        ("notlist", 200, "application/json", "{"),
        ("422", 422, "text/plain", REFUSAL),
        ("deep", 200, "application/json", "[" * 100_000 + "]"),
    ],
)
def test_a_fault_has_its_status_and_body(kind: str, status: int, content_type: str, start: str) -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        async with session.post(simulator.url, json=asked(simulator.population.address(0))) as response:
            assert (response.status, response.content_type) == (status, content_type)
            assert (await response.text()).startswith(start)
        assert simulator.stats.faults == {kind: 1}

    run(faulty(kind), body)


def test_a_redirect_leads_to_itself_for_ever() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.TooManyRedirects):
            await post(simulator, session, asked(simulator.population.address(0)))
        async with session.post(
            simulator.url, json=asked(simulator.population.address(0)), allow_redirects=False
        ) as response:
            assert (response.status, response.headers["Location"]) == (307, simulator.url)

    run(faulty("redirect"), body)


@pytest.mark.parametrize("kind", ["cut", "overlong", "reset"])
def test_a_broken_connection_is_an_error_never_a_short_page(kind: str) -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        for encoding in ("gzip", "identity"):
            request = asked(simulator.population.address(0))
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
                await post(simulator, session, request, {"Accept-Encoding": encoding})
        assert simulator.stats.faults == {kind: 2}
        assert simulator.stats.by_status == {"444" if kind == "reset" else "200": 2}

    run(faulty(kind), body)


@pytest.mark.parametrize(("kind", "announced"), [("cut", 1), ("overlong", 2), ("tooshort", 0.5)])
def test_what_is_announced_is_not_what_is_sent(kind: str, announced: float) -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(0)
        reader, writer = await asyncio.open_connection(simulator.host, simulator.port)
        request = json.dumps(asked(user)).encode()
        writer.write(b"POST /info HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(request) + request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        sent = await reader.read()
        writer.close()
        whole = json.dumps(simulator.truth(user, 0, None), separators=(",", ":"), default=float).encode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert length == int(announced * len(whole))
        assert sent == (whole[: len(whole) // 2] if kind == "cut" else whole)

    run(faulty(kind), body)


def test_a_huge_page_is_a_page_of_its_rows_over_and_over() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        for index in range(2):
            user = simulator.population.address(index)
            async with session.post(simulator.url, json=asked(user)) as response:
                page = await response.read()
            assert 1 << 20 <= len(page) < 1.2 * (1 << 20)
            truth = simulator.population.fills(index)
            assert [row for row in json.loads(page) if row not in truth] == ([] if truth else page.count(b"0") * [0])

    run(SimulatorConfig(users=2, lengths={0: 60, 1: 0}, faults=FaultPlan({"huge": 1.0}, huge_bytes=1 << 20)), body)


def test_who_has_enough_of_a_huge_page_may_leave() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        before = len(asyncio.all_tasks())
        async with session.post(simulator.url, json=asked(simulator.population.address(0))) as response:
            assert len(await response.content.readexactly(1 << 20)) == 1 << 20
        await until(lambda: len(asyncio.all_tasks()) <= before)

    run(faulty("huge", huge_bytes=1 << 40), body)


def test_a_trickling_answer_is_right_and_comes_byte_by_byte() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        request = asked(simulator.population.address(0))
        async with session.post(simulator.url, json=request, headers={"Accept-Encoding": "identity"}) as response:
            pieces = [piece async for piece, _ in response.content.iter_chunks()]
            assert json.loads(b"".join(pieces)) == simulator.population.fills(0)
            assert len(pieces) > 100  # some bytes may arrive together

    config = SimulatorConfig(users=2, lengths={0: 2}, faults=FaultPlan({"trickle": 1.0}, trickle_seconds=0.001))
    run(config, body)


def test_a_dripping_answer_is_right_but_slow() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        started = time.monotonic()
        rows = await post(simulator, session, asked(simulator.population.address(0)))
        assert time.monotonic() - started >= 0.3
        assert rows == simulator.population.fills(0)

    run(faulty("drip", drip_seconds=0.3), body)


@pytest.mark.parametrize("kind", ["hang", "drip", "trickle"])
def test_closing_is_fast_while_requests_are_held(kind: str) -> None:
    async def whole() -> float:
        async with aiohttp.ClientSession() as session:
            async with Simulator(faulty(kind)) as simulator:
                request = asked(simulator.population.address(0))
                held = [asyncio.ensure_future(post(simulator, session, request)) for _ in range(5)]
                await until(lambda: simulator.stats.faults[kind] == 5)
                started = time.monotonic()
            closed = time.monotonic() - started
            outcomes = await asyncio.gather(*held, return_exceptions=True)
            assert all(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes)
        return closed

    assert asyncio.run(whole(), debug=True) < 1.0


def test_a_client_that_gives_up_leaves_no_handler_behind() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        before = len(asyncio.all_tasks())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await post(simulator, session, asked(simulator.population.address(0)))
        await until(lambda: len(asyncio.all_tasks()) <= before)

    run(faulty("hang"), body)


def test_duplicates_disorder_and_outsiders_are_added_to_right_rows() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        users = [simulator.population.address(index) for index in range(3)]
        truth = [simulator.population.fills(index) for index in range(3)]
        pages = [await post(simulator, session, asked(user, 0, END_MS * 2)) for user in users]
        assert len(pages[0]) > 60
        assert [row for at, row in enumerate(pages[0]) if at == 0 or row != pages[0][at - 1]] == truth[0]
        assert pages[1] != truth[1]
        assert sorted(pages[1], key=str) == sorted(truth[1], key=str)
        assert pages[2][:-1] == truth[2]
        assert pages[2][-1]["time"] == END_MS * 2 + 1
        assert await post(simulator, session, asked(users[0])) == truth[0]  # the rule was for one request

    config = SimulatorConfig(users=4, lengths=dict.fromkeys(range(4), 60))
    probe = Simulator(config).population
    kinds = ("duplicate", "disorder", "outside")
    rules = {probe.address(index): UserFault(kind, 1) for index, kind in enumerate(kinds)}
    run(SimulatorConfig(users=4, lengths=config.lengths, faults=FaultPlan(per_user=rules)), body)


def test_rows_without_numbers_are_the_right_rows_but_for_one_member_each() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        async with session.post(simulator.url, json=asked(simulator.population.address(0))) as response:
            text = await response.text()
        page, truth = json.loads(text, parse_constant=str), simulator.population.fills(0)
        wrong = [(name, row[name]) for row, right in zip(page, truth, strict=True) for name in row if row != right]
        assert len(page) == len(truth) == 60
        assert sorted(pair for pair in wrong if pair[1] in ("NaN", "Infinity", "-Infinity")) == [
            ("closedPnl", "-Infinity"), ("fee", "NaN"), ("px", "NaN"), ("sz", "Infinity"), ("time", "-Infinity"),
        ]  # fmt: skip
        assert (text.count('"px":NaN'), text.count('"fee":"NaN"')) == (1, 1)  # bare, and as text

    run(faulty("nan"), body)


def test_numbers_as_text_and_back_keep_every_digit() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        async with session.post(simulator.url, json=asked(simulator.population.address(0))) as response:
            text = await response.read()
        for row in json.loads(text):
            assert {type(row[name]) for name in ("px", "sz", "startPosition", "closedPnl", "fee")} <= {float, int}
            assert {type(row[name]) for name in ("time", "oid")} == {str}
        digits = json.loads(text, parse_float=str, parse_int=str)
        for row, right in zip(digits, simulator.population.fills(0), strict=True):
            assert row == {name: str(value) if type(value) is int else value for name, value in right.items()}

    run(faulty("numbers"), body)


def test_pages_of_other_requests_are_stuck_have_a_hole_or_are_anothers() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        users = [simulator.population.address(index) for index in range(4)]
        truth = [simulator.population.fills(index) for index in range(4)]
        start = truth[0][100]["time"]
        assert await post(simulator, session, asked(users[0], start)) == truth[0][:100]
        start = truth[1][100]["time"]
        page = await post(simulator, session, asked(users[1], start))
        assert page == [row for row in truth[1] if row["time"] > start][:100]
        assert await post(simulator, session, asked(users[2])) == truth[0][:100]  # the next has none, then the first
        assert simulator.stats.faults == {"stuck": 1, "hole": 1, "another": 1}
        assert await post(simulator, session, asked(users[0])) == truth[0][:100]
        assert simulator.stats.faults["stuck"] == 1  # no fault: it was the first page that was asked for

    config = SimulatorConfig(users=4, lengths={0: 250, 1: 250, 2: 40, 3: 0}, page_rows=100)
    probe = Simulator(config).population
    kinds = ("stuck", "hole", "another")
    rules = {probe.address(index): UserFault(kind) for index, kind in enumerate(kinds)}
    run(SimulatorConfig(users=4, lengths=config.lengths, page_rows=100, faults=FaultPlan(per_user=rules)), body)


def test_nobody_elses_page_is_an_empty_one() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        assert await post(simulator, session, asked(simulator.population.address(0))) == []

    run(SimulatorConfig(users=1, lengths={0: 5}, faults=FaultPlan({"another": 1.0})), body)


def test_a_storm_meets_everybody_and_passes() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        user = simulator.population.address(0)
        statuses = []
        for _ in range(2):
            for request in (asked(user), asked("0x" + "ab" * 20)):
                async with session.post(simulator.url, json=request) as response:
                    statuses.append(response.status)
            await asyncio.sleep(0.25)
        assert statuses == [429, 429, 200, 200]
        assert simulator.stats.weight_spent < 60  # a storm's refusals are free

    # A seed whose first draw is a 429 and whose next two are not.
    seed = next(
        seed
        for seed in range(1_000)
        for chance in [random.Random(seed)]
        if [chance.random() < 0.5 for _ in range(3)] == [True, False, False]
    )
    plan = FaultPlan({"429": 0.5}, seed=seed, storm_seconds=0.2)
    run(SimulatorConfig(users=1, lengths={0: 5}, faults=plan), body)


def test_chances_are_met_about_as_often_as_told_and_the_same_each_time() -> None:
    def outcomes() -> dict[str, int]:
        found: dict[str, int] = {}

        async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
            for _ in range(100):
                async with session.post(simulator.url, json=asked("0x" + "ab" * 20)) as response:
                    await response.read()
            found.update(simulator.stats.faults)

        run(SimulatorConfig(users=1, weight_per_minute=0, faults=FaultPlan.parse(["500=0.2,502=0.1"])), body)
        return found

    first = outcomes()
    assert outcomes() == first
    assert 8 <= first["500"] <= 35
    assert 2 <= first["502"] <= 22


def test_fault_texts_of_the_command_line_are_read() -> None:
    user = "0x" + "Ab" * 20
    plan = FaultPlan.parse(["429=0.02", "cut=0.01", f"{user}=hang", "0x" + "cd" * 20 + "=500:3"], seed=5)
    assert plan.chances == {"429": 0.02, "cut": 0.01}
    assert plan.per_user == {user.lower(): UserFault("hang"), "0x" + "cd" * 20: UserFault("500", 3)}
    assert plan.seed == 5


@pytest.mark.parametrize("text", ["429", "429=x", "418=0.1", "429=1.5", "0x12=", "0x12=500:x", "500=0.7,502=0.7"])
def test_an_unreadable_fault_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        FaultPlan.parse([text])


@pytest.mark.parametrize(
    "wrong",
    [{"users": -1}, {"page_rows": 0}, {"window_model": "tumbling"}, {"latency_seconds": (2.0, 1.0)},
     {"moving": 2.0}, {"moving": 0.5, "start_now_ms": END_MS}, {"replay": Path("/nowhere")}],
)  # fmt: skip
def test_impossible_settings_are_usage_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Simulator(SimulatorConfig(**wrong))


# -- the window on the truth ------------------------------------------------------------------


def test_the_truth_and_the_stats_can_be_asked_over_http() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        base = simulator.url.removesuffix("/info")

        async def get(path: str) -> Any:
            async with session.get(base + path) as response:
                assert response.status == 200
                return await response.json()

        whole = await get("/truth?offset=1&limit=2")
        assert (whole["users"], whole["seed"]) == (5, 3)
        assert whole["config"]["retention_rows"] == 100
        assert whole["addresses"] == [simulator.population.address(1), simulator.population.address(2)]
        user = simulator.population.address(0)
        await post(simulator, session, asked(user))
        one = await get(f"/truth/{user}?start=0&end={END_MS * 2}")
        assert one["rows"] == simulator.population.fills(0)[-100:]
        assert (one["row_count"], one["lost_rows"]) == (100, 50)
        stats = await get("/stats")
        assert stats["requests"] == 1
        assert stats["by_type"] == {"userFillsByTime": 1}
        assert (stats["by_status"], stats["weight_spent"], stats["rows_served"]) == ({"200": 1}, 25, 100)
        async with session.get(f"{base}/truth/{user}?start=x") as response:
            assert response.status == 400

    run(SimulatorConfig(users=5, seed=3, lengths={0: 150}, retention_rows=100), body)


def test_a_taken_port_is_a_usage_error() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        with pytest.raises(UsageError, match=str(simulator.port)):
            async with Simulator(SimulatorConfig(users=1), port=simulator.port):
                pass

    run(SimulatorConfig(users=1), body)


def test_serve_announces_its_url_and_ends_when_cancelled() -> None:
    async def whole() -> None:
        announced: asyncio.Queue[str] = asyncio.Queue()
        task = asyncio.ensure_future(serve(SimulatorConfig(users=1), "127.0.0.1", 0, announced.put_nowait))
        url = await asyncio.wait_for(announced.get(), 5)
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=asked("0x" + "ab" * 20)) as response,
        ):
            assert response.status == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(whole(), debug=True)


# -- recorded answers -------------------------------------------------------------------------

FILL: Row = {"coin": "BTC", "px": "1.10", "sz": "1.0", "side": "B", "tid": 5, "oid": 1}
USER = "0x" + "Ab" * 20


def fills(*times: int) -> list[Row]:
    return [{**FILL, "time": at, "tid": 100 + number} for number, at in enumerate(times)]


def served(recording: Recording, user: str) -> list[Row]:
    return recording.users[user].fills.decoded()


def test_newest_first_is_reversed_also_inside_a_millisecond(tmp_path: Path) -> None:
    (tmp_path / f"user_fills_{USER}.json").write_text(json.dumps(fills(9, 9, 7, 3, 3)))
    assert served(Recording.load(tmp_path), USER.lower()) == fills(9, 9, 7, 3, 3)[::-1]


def test_oldest_first_stays_and_a_mixed_order_is_sorted_stably(tmp_path: Path) -> None:
    (tmp_path / "ascending.json").write_text(json.dumps(fills(3, 3, 7)))
    (tmp_path / "mixed.json").write_text(json.dumps(fills(7, 3, 9, 3)))
    recording = Recording.load(tmp_path)
    assert served(recording, recording.files["ascending.json"]) == fills(3, 3, 7)
    rows = fills(7, 3, 9, 3)
    assert served(recording, recording.files["mixed.json"]) == [rows[1], rows[3], rows[0], rows[2]]


def test_files_of_one_user_merge_and_keep_overlapping_rows_once(tmp_path: Path) -> None:
    rows = fills(1, 2, 2, 3, 3, 3, 4)
    (tmp_path / f"user_fills_{USER}.json").write_text(json.dumps(rows[:5][::-1]))
    (tmp_path / f"user_fills_later_{USER.lower()}.json").write_text(json.dumps(rows[3:][::-1], sort_keys=True))
    slices = [{"fill": row, "twapId": 8} for row in fills(2, 5)]
    (tmp_path / f"twap_slice_fills_{USER}.json").write_text(json.dumps(slices[::-1]))
    recording = Recording.load(tmp_path)
    assert list(recording.users) == [USER.lower()]
    assert served(recording, USER.lower()) == rows
    assert recording.users[USER.lower()].twap_slices.decoded() == slices


def test_equal_rows_of_one_answer_are_not_taken_for_overlap(tmp_path: Path) -> None:
    twice = [*fills(1), *fills(1)]
    (tmp_path / f"a_{USER}.json").write_text(json.dumps(twice))
    (tmp_path / f"b_{USER}.json").write_text(json.dumps([*fills(1), {**FILL, "time": 2}]))
    (tmp_path / f"c_{USER}.json").write_text(json.dumps([*twice, *fills(1)]))
    assert served(Recording.load(tmp_path), USER.lower()) == [*twice, *fills(1), {**FILL, "time": 2}]


def test_numbers_and_unknown_members_survive_as_text(tmp_path: Path) -> None:
    row = '{"coin":"BTC","time":5,"odd":1.10,"big":123456789012345678901234567890,"exp":1E+2,"more":{"a":[0.10]}}'
    (tmp_path / "x.json").write_text(f"[{row}]")
    recording = Recording.load(tmp_path, shift_into_end_ms=1_000)
    (shifted,) = recording.users[recording.files["x.json"]].fills.rows
    assert shifted == row.replace('"time":5', '"time":999')


def test_a_shift_keeps_distances_and_ends_just_before_the_end(tmp_path: Path) -> None:
    (tmp_path / f"user_fills_{USER}.json").write_text(json.dumps(fills(10, 25, 40)))
    slices = [{"fill": row, "twapId": 8} for row in fills(5, 50)]
    (tmp_path / f"twap_slice_fills_{USER}.json").write_text(json.dumps(slices))
    user = Recording.load(tmp_path, shift_into_end_ms=1_000).users[USER.lower()]
    assert user.shift_ms == 949
    assert user.fills.times == [row["time"] for row in user.fills.decoded()] == [959, 974, 989]
    assert user.twap_slices.times == [954, 999]
    assert [row["fill"]["time"] for row in user.twap_slices.decoded()] == [954, 999]


def test_what_is_no_recorded_answer_is_skipped_with_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {
        "broken.json": "[{", "words.json": '["a"]', "object.json": '{"a": 1}', "number.json": "5", "void.json": "",
        "no_time.json": '[{"coin":"BTC"}]', "text_time.json": '[{"coin":"BTC","time":"5"}]',
        "both.json": '[{"coin":"BTC","time":5},{"fill":{"coin":"BTC","time":5},"twapId":1}]',
    }  # fmt: skip
    for name, text in wrong.items():
        (tmp_path / name).write_text(text)
    (tmp_path / f"idle_{USER}.json").write_text("[]")
    recording = Recording.load(tmp_path)
    assert set(recording.skipped) == set(wrong)
    assert all(any(name in record.getMessage() for record in caplog.records) for name in wrong)
    assert served(recording, USER.lower()) == []


@needs_real_fills
def test_real_answers_are_served_unaltered() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        recording = simulator.recording
        assert not recording.skipped
        for name, user in recording.files.items():
            recorded = json.loads((REAL_FILLS / name).read_text())
            if isinstance(recorded, dict):
                recorded = recorded["page1_tail"] + recorded["page2_head"][1:]
            walked = await walk(simulator, session, user, None)
            if "fill" in recorded[0]:
                request = asked(user, kind="userTwapSliceFillsByTime")
                assert await post(simulator, session, request) == recorded[::-1]
                continue
            assert {json.dumps(row, sort_keys=True) for row in recorded} <= {
                json.dumps(row, sort_keys=True) for row in walked
            }
            assert walked == simulator.truth(user, 0, None)

    run(SimulatorConfig(users=0, replay=REAL_FILLS, weight_per_minute=0), body)


@needs_real_fills
def test_real_captures_nine_days_apart_merge_into_one_history() -> None:
    recording = Recording.load(REAL_FILLS)
    both = recording.users["0xaf0fdd39e5d92499b0ed9f68693da99c0ec1e92e"]
    assert len(both.fills.rows) == 4_000 - 88
    assert len(both.twap_slices.rows) == 2_000
    assert both.fills.times == sorted(both.fills.times)
    boundary = recording.users[recording.files["page_boundary.json"]]
    assert len(boundary.fills.rows) == 4 + 3 - 1


@needs_real_fills
def test_real_answers_can_be_moved_into_the_window() -> None:
    async def body(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        for user, recorded in simulator.recording.users.items():
            rows = await walk(simulator, session, user, END_MS)
            assert len(rows) == len(recorded.fills.rows)
            newest = max([*recorded.fills.times, *recorded.twap_slices.times])
            assert newest == END_MS - 1

    run(SimulatorConfig(users=0, replay=REAL_FILLS, replay_shift_end_ms=END_MS, weight_per_minute=0), body)
