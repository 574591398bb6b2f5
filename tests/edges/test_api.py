"""The exchange's client against a server that sends whatever a test wants, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.factories import USER, body_of, history, wire_row
from tests.kit.hostile import Answer, Hostile, Line, cut, drip, free_port, page, reply, reset, silence, zipped
from tests.kit.loop import run
from vigil import HyperliquidAPI
from vigil.errors import (
    ExchangeError,
    ExchangeRefused,
    ExchangeThrottled,
    ExchangeUnavailable,
    ExchangeUnreachable,
    MalformedReply,
    UsageError,
)
from vigil.settings import Settings

START, END = 1_700_000_000_000, 1_700_000_100_000
TRIES = 3
BASE, WORST = 20, 120
THROTTLED = reply(b"null", "429 Too Many Requests")
HTML = b"<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>"


def impatient(url: str, **overrides: Any) -> Settings:
    given = {
        "api_url": url,
        "weight_per_minute": 100_000,
        "weight_period_seconds": 0.3,
        "retry_max_seconds": 0.02,
        "request_tries": TRIES,
        "request_timeout_seconds": 5.0,
        "connect_timeout_seconds": 1.0,
        "startup_patience_seconds": 5.0,
        "outage_patience_seconds": 5.0,
        **overrides,
    }
    return Settings(**{"_env_file": None, **given})


@asynccontextmanager
async def a_client(server: Hostile, **overrides: Any) -> AsyncIterator[HyperliquidAPI]:
    async with HyperliquidAPI(impatient(server.url, **overrides)) as api:
        yield api
        assert api.limiter.budget.in_flight == 0


async def ask(api: HyperliquidAPI, user: str = USER) -> list[dict[str, Any]]:
    return [dict(fill) for fill in await api.get_user_fills_by_time(user, START, END)]


async def faults(api: HyperliquidAPI, kind: str, number: int) -> None:
    """Wait until so many have been counted."""
    async with asyncio.timeout(5):
        while api.faults[kind] < number:  # noqa: ASYNC110  a counter has no event
            await asyncio.sleep(0.01)


def served(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


# What is asked, and how


def test_the_request_is_the_documented_one() -> None:
    async def scenario() -> None:
        async with Hostile() as server, a_client(server) as api:
            await api.get_user_fills_by_time(f" {USER.upper().replace('0X', '0x')}\n", START, END)
            await api.get_user_fills_by_time(USER, 0)
            first, second = server.requests
            assert first.line == "POST /info HTTP/1.1"
            assert first.headers["content-type"] == "application/json"
            assert first.headers["user-agent"].startswith("vigil-backfill/")
            assert first.headers["accept-encoding"] == "gzip"
            asked = {"type": "userFillsByTime", "user": USER, "startTime": START, "aggregateByTime": False}
            assert first.json == {**asked, "endTime": END}
            assert second.json == {**asked, "startTime": 0}

    run(scenario())


@pytest.mark.parametrize("user", ["", "0x12", "0x" + "g" * 40, USER + "0", USER[2:]])
def test_a_bad_address_is_refused_before_anything_is_sent(user: str) -> None:
    async def scenario() -> None:
        async with Hostile() as server, a_client(server) as api:
            with pytest.raises(UsageError, match="is not a user's address"):
                await api.get_user_fills_by_time(user, START, END)
            with pytest.raises(UsageError, match="is not a user's address"):
                await anext(api.iter_user_fills(user, START, END))
            assert (server.requests, api.limiter.weight_spent) == ([], 0)

    run(scenario())


@pytest.mark.parametrize("window", [(-1, 5), (5, 4), (-5, -1)])
def test_a_bad_window_is_refused_before_anything_is_sent(window: tuple[int, int]) -> None:
    async def scenario() -> None:
        async with Hostile() as server, a_client(server) as api:
            with pytest.raises(UsageError, match="window"):
                await api.get_user_fills_by_time(USER, *window)
            assert server.requests == []

    run(scenario())


@pytest.mark.parametrize("user", [USER, "0x12"])
def test_a_bad_window_is_refused_by_the_iterator_too(user: str) -> None:
    async def scenario() -> None:
        async with Hostile() as server, a_client(server) as api:
            with pytest.raises(UsageError):
                async for _ in api.iter_user_fills(user, 5, 3):
                    pass

    run(scenario())


# Good answers


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: reply(body),
        zipped,
        lambda body: reply(body, kind="text/plain"),  # the type is not looked at, the body is
        lambda body: (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 999]), body[i : i + 999]) for i in range(0, len(body), 999))
            + b"0\r\n\r\n"
        ),
    ],
    ids=["plain", "gzip", "text/plain", "chunked"],
)
def test_a_page_arrives_however_it_is_wrapped_and_costs_by_its_rows(answer: Any) -> None:
    async def scenario() -> None:
        rows = history(range(START, START + 41))
        async with Hostile(answer(body_of(rows)), page([])) as server, a_client(server) as api:
            assert await ask(api) == served(rows)
            assert api.limiter.weight_spent == BASE + 3  # 41 rows, one for every 20 begun
            assert await ask(api) == []
            assert api.limiter.weight_spent == 2 * BASE + 3
            assert (api.requests, +api.faults) == (2, {})

    run(scenario())


def test_a_row_that_is_none_does_not_spoil_its_page() -> None:
    async def scenario() -> None:
        rows = history([START, START + 1, START + 2])
        body = body_of(rows).replace(b'"42000.5"', b"NaN", 1)
        async with Hostile(reply(body)) as server, a_client(server) as api:
            got = await api.get_user_fills_by_time(USER, START, END)
            assert [fill.tid for fill in got] == [2, 3]
            assert [row.time for row in got.rejected] == [START]
            assert (api.faults["rejected_rows"], api.limiter.weight_spent) == (1, BASE + 1)

    run(scenario())


def test_iterating_yields_each_fill_once_over_pages_that_overlap() -> None:
    """A server of 2,000 rows a page, and more than fit within one millisecond at the edge of a page."""
    times = [*range(1_500), *[1_600] * 700, *range(2_000, 3_801), 4_000]
    rows = history(START + time for time in times)

    async def serve(line: Line) -> None:
        asked = line.request.json
        inside = [row for row in rows if asked["startTime"] <= row["time"] <= asked["endTime"]]
        line.writer.write(page(inside[:2_000]))

    async def scenario() -> None:
        async with Hostile(otherwise=serve) as server, a_client(server) as api:
            fills = [fill async for got in api.iter_user_fills(USER, START, END) for fill in got]
            assert [fill.tid for fill in fills] == [row["tid"] for row in rows]
            starts = [request.json["startTime"] - START for request in server.requests]
            assert starts[:2] == [0, 1_600]
            assert {request.json["endTime"] for request in server.requests} == {END}
            assert api.limiter.weight_spent <= 4 * WORST

    run(scenario())


def test_a_page_out_of_order_is_asked_for_again_and_then_refused() -> None:
    async def scenario() -> None:
        right = history([START, START + 1])
        wrong = page(right[::-1])
        async with Hostile(wrong, page(right), otherwise=wrong) as server, a_client(server) as api:
            assert [len(got) async for got in api.iter_user_fills(USER, START, END)] == [2]
            with pytest.raises(MalformedReply, match="a row of"):
                await anext(api.iter_user_fills(USER, START, END))
            assert len(server.requests) == 2 + 3

    run(scenario())


# Answers that are none


RIGHT = body_of([wire_row(START)])

TRANSIENT: dict[str, tuple[Answer, type[ExchangeError], str, int]] = {
    "500": (reply(b"null", "500 Internal Server Error"), ExchangeUnavailable, "status 500", BASE),
    "502 html": (reply(HTML, "502 Bad Gateway", kind="text/html"), ExchangeUnavailable, "status 502", BASE),
    "403 html": (reply(HTML, "403 Forbidden", kind="text/html"), ExchangeUnavailable, "status 403", BASE),
    "302": (reply(b"", "302 Found", Location="/elsewhere"), ExchangeUnavailable, "status 302", BASE),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", ExchangeUnavailable, "status 204", BASE),
    "html with 200": (reply(HTML, kind="text/html"), MalformedReply, "not JSON", WORST),
    "object with 200": (reply(b'{"error": "try later"}'), MalformedReply, "JSON dict, not an array", WORST),
    "null with 200": (reply(b"null"), MalformedReply, "JSON NoneType, not an array", WORST),
    "NaN with 200": (reply(b"NaN"), MalformedReply, "not an array", WORST),
    "nothing with 200": (reply(b""), MalformedReply, "not JSON", WORST),
    "JSON cut, length right": (reply(RIGHT[:-9]), MalformedReply, "not JSON", WORST),
    "not UTF-8": (reply(b'[{"coin": "\xff"}'), MalformedReply, "not JSON", WORST),
    "body cut": (cut(reply(RIGHT), len(reply(RIGHT)) - 9), ExchangeUnavailable, "broke off", WORST),
    "gzip cut": (cut(zipped(RIGHT), len(zipped(RIGHT)) - 9), ExchangeUnavailable, "broke off", WORST),
    "gzip that is none": (reply(RIGHT, Content_Encoding="gzip"), ExchangeUnavailable, "broke off", WORST),
    "length too short": (reply(RIGHT, Content_Length="30"), ExchangeUnavailable, "broke off", WORST),
    "length negative": (reply(RIGHT, Content_Length="-5"), ExchangeUnavailable, "broke off", WORST),
    "chunk size is none": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]", ExchangeUnavailable, "broke off", WORST,
    ),
    "no HTTP at all": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ExchangeUnavailable, "broke off", WORST),
    "closed without a word": (cut(b"", 0), ExchangeUnavailable, "broke off", WORST),
    "reset": (reset, ExchangeUnavailable, "broke off", WORST),
    "head cut": (cut(reply(RIGHT), 20), ExchangeUnavailable, "broke off", WORST),
    "too large": (reply(b" " * 3_000 + RIGHT), ExchangeUnavailable, "larger than 2000 bytes", WORST),
    "too large, length unknown": (
        cut(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 300_000, 300_019), ExchangeUnavailable, "larger than 2000", WORST,
    ),
    "too late": (silence, ExchangeUnavailable, "within 0.5 s", WORST),
    "dripping": (drip(reply(RIGHT), 0.01), ExchangeUnavailable, "within 0.5 s", WORST),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSIENT)
def test_an_answer_that_may_pass_is_asked_for_again_and_then_reported(kind: str) -> None:
    answer, error, said, weight = TRANSIENT[kind]
    overrides: dict[str, Any] = {"max_body_bytes": 2_000}
    if said.startswith("within"):
        overrides["request_timeout_seconds"] = 0.5

    async def scenario() -> None:
        good = page([wire_row(START)])
        async with Hostile(answer, good, otherwise=answer) as server, a_client(server, **overrides) as api:
            assert len(await ask(api)) == 1  # one try later it is there
            assert api.limiter.weight_spent == weight + BASE + 1
            before = len(server.requests)
            with pytest.raises(error, match=said) as caught:
                await ask(api)
            assert type(caught.value) is error
            assert len(server.requests) - before == TRIES
            assert api.limiter.weight_spent == (1 + TRIES) * weight + BASE + 1
            assert api.faults.total() == 1 + TRIES
            assert api.limiter.gate.is_open, "others need not wait for it"

    run(scenario())


def test_an_answer_no_parser_takes_is_told_in_one_sentence() -> None:
    async def scenario() -> None:
        body = body_of(history(range(START, START + 2000)))
        async with Hostile(otherwise=reply(body, Content_Length="30")) as server, a_client(server) as api:
            with pytest.raises(ExchangeUnavailable) as caught:
                await ask(api)
            assert len(str(caught.value)) < 300
            assert "\n" not in str(caught.value)

    run(scenario())


def test_a_gzip_bomb_is_refused_before_it_unfolds() -> None:
    async def scenario() -> None:
        bomb = gzip.compress(b" " * (200 << 20), 9)
        server = Hostile(otherwise=reply(bomb, Content_Encoding="gzip"))
        async with server, a_client(server, max_body_bytes=1 << 20, request_tries=1) as api:
            tracemalloc.start()
            try:
                with pytest.raises(ExchangeUnavailable):
                    await ask(api)
                assert tracemalloc.get_traced_memory()[1] < 100 << 20
            finally:
                tracemalloc.stop()

    run(scenario())


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422])
def test_what_the_exchange_refuses_is_raised_at_once_with_its_words(status: int) -> None:
    words = "Failed to deserialize the JSON body into the target type"

    async def scenario() -> None:
        answer = reply(words.encode(), f"{status} Whatever", kind="text/plain")
        async with Hostile(otherwise=answer) as server, a_client(server) as api:
            with pytest.raises(ExchangeRefused, match=f"status {status}: '{words}'"):
                await ask(api)
            assert (len(server.requests), api.limiter.weight_spent, +api.faults) == (1, BASE, {"refused": 1})

    run(scenario())


# 429


def test_a_429_stops_all_coroutines_once_and_blames_none() -> None:
    arrived = asyncio.Event()

    async def when_all_are_here(line: Line) -> None:
        await arrived.wait()
        line.writer.write(THROTTLED)

    async def scenario() -> None:
        probed = asyncio.Event()

        async def probe(line: Line) -> None:
            await asyncio.sleep(0.1)  # time in which others would come, if they did not wait for this one
            assert len(server.requests) == 6
            probed.set()
            line.writer.write(page([]))

        async with Hostile(*[when_all_are_here] * 5, probe) as server, a_client(server) as api:
            async with asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(ask(api, f"0x{number:040x}"))
                await server.until(lambda: len(server.requests) == 5)
                arrived.set()
            assert probed.is_set()
            assert len(server.requests) == 10
            assert {request.json["user"] for request in server.requests[5:]} == {f"0x{n:040x}" for n in range(5)}
            assert api.limiter.gate.pauses == 1
            assert api.limiter.weight_spent == 10 * BASE
            assert +api.faults == {"throttled": 5}

    run(scenario())


def test_a_late_429_while_one_request_probes_is_waited_out() -> None:
    async def scenario() -> None:
        probing, told = asyncio.Event(), asyncio.Event()

        async def late(line: Line) -> None:
            await probing.wait()
            line.writer.write(THROTTLED)
            told.set()

        async def probe(line: Line) -> None:
            probing.set()
            await told.wait()
            await asyncio.sleep(0.1)
            line.writer.write(page([]))

        async def first(line: Line) -> None:
            await server.until(lambda: len(server.requests) == 2)
            line.writer.write(THROTTLED)

        async with Hostile(first, late, probe) as server, a_client(server) as api:
            assert [await asking for asking in [asyncio.create_task(ask(api)) for _ in range(2)]] == [[], []]

    run(scenario())


def test_retry_after_is_honoured() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        answer = reply(b"null", "429 Too Many Requests", Retry_After="1")
        async with Hostile(answer) as server, a_client(server) as api:
            began = loop.time()
            assert await ask(api) == []
            assert 1.0 <= loop.time() - began < 3.0
            assert len(server.requests) == 2

    run(scenario())


@pytest.mark.parametrize("value", ["soon", "Wed, 21 Oct 2015 07:28:00 GMT", "-5", "", "1e9"])
def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(value: str) -> None:
    async def scenario() -> None:
        answer = reply(b"null", "429 Too Many Requests", Retry_After=value)
        async with Hostile(answer) as server, a_client(server) as api:
            async with asyncio.timeout(3):
                assert await ask(api) == []

    run(scenario())


def test_a_429_longer_than_the_patience_is_reported_at_once() -> None:
    async def scenario() -> None:
        answer = reply(b"null", "429 Too Many Requests", Retry_After="3600")
        async with Hostile(answer) as server, a_client(server, outage_patience_seconds=10) as api:
            async with asyncio.timeout(3):
                with pytest.raises(ExchangeThrottled) as caught:
                    await ask(api)
            assert caught.value.retry_after == 3600
            assert "run the same command again" in caught.value.hint

    run(scenario())


def test_429s_for_longer_than_the_patience_are_reported_as_such() -> None:
    async def scenario() -> None:
        async with Hostile(otherwise=THROTTLED) as server, a_client(server, outage_patience_seconds=0.3) as api:
            with pytest.raises(ExchangeThrottled, match="429"):
                await ask(api)
            assert len(server.requests) > TRIES
            assert api.limiter.weight_spent == BASE * len(server.requests)

    run(scenario())


# Nobody there


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_exchange_that_is_not_there_is_reported_within_the_patience_of_a_start(scheme: str) -> None:
    async def scenario() -> None:
        url = f"{scheme}://127.0.0.1:{free_port()}/info"
        async with HyperliquidAPI(impatient(url, startup_patience_seconds=0.3)) as api:
            with pytest.raises(ExchangeUnreachable, match=f"No connection to {url}") as caught:
                await ask(api)
            assert api.faults["unreachable"] >= 2
            assert api.limiter.weight_spent == 0
            assert caught.value.hint

    run(scenario())


def test_a_server_without_tls_is_unreachable_and_not_a_broken_answer() -> None:
    async def scenario() -> None:
        async with Hostile() as server:
            url = server.url.replace("http:", "https:")
            async with HyperliquidAPI(impatient(url, startup_patience_seconds=0.2)) as api:
                with pytest.raises(ExchangeUnreachable):
                    await ask(api)

    run(scenario())


def test_an_exchange_that_comes_up_within_the_patience_is_asked_then() -> None:
    async def scenario() -> None:
        server = Hostile(port=free_port())
        async with HyperliquidAPI(impatient(server.url)) as api:
            asking = [asyncio.create_task(ask(api)) for _ in range(3)]
            await faults(api, "unreachable", 3)
            async with server:
                assert await asyncio.gather(*asking) == [[], [], []]
                assert api.limiter.weight_spent == 3 * BASE

    run(scenario())


def test_an_outage_is_waited_out_longer_than_a_start() -> None:
    async def scenario() -> None:
        port = free_port()
        settings = impatient(f"http://127.0.0.1:{port}/info", startup_patience_seconds=0.0)
        async with HyperliquidAPI(settings) as api:
            async with Hostile(port=port):
                await ask(api)
            asking = asyncio.create_task(ask(api))
            await faults(api, "unreachable", 2)
            async with Hostile(port=port):
                assert await asking == []

    run(scenario())


@pytest.mark.parametrize("earlier", ["refused", "failed"])
def test_patience_begins_with_the_silence_and_not_with_an_earlier_request_that_failed(earlier: str) -> None:
    """As in a library's use: a request that failed, a long pause, and a single 429 at the next one."""

    async def scenario() -> None:
        status = "422 Unprocessable Entity" if earlier == "refused" else "500 Internal Server Error"
        server = Hostile(reply(b"null", status), THROTTLED)
        async with server, a_client(server, outage_patience_seconds=0.3, request_tries=1) as api:
            with pytest.raises((ExchangeRefused, ExchangeUnavailable)):
                await ask(api)
            await asyncio.sleep(0.5)
            assert await ask(api) == []

    run(scenario())


# Cancelled


@pytest.mark.parametrize("answer", [silence, drip(reply(RIGHT), 0.05)], ids=["before the answer", "within the answer"])
def test_cancelled_in_flight_it_leaves_no_connection_and_returns_its_share(answer: Answer) -> None:
    async def scenario() -> None:
        async with Hostile(answer) as server, a_client(server, weight_per_minute=140) as api:
            asking = asyncio.create_task(ask(api))
            await server.until(lambda: len(server.requests) == 1)
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert (api.limiter.budget.in_flight, api.limiter.weight_spent) == (0, WORST)
            await server.until(lambda: server.open_connections == 0)
            assert await ask(api) == []

    run(scenario())


def test_cancelled_while_all_wait_for_a_429_to_pass_others_go_on() -> None:
    async def scenario() -> None:
        answer = reply(b"null", "429 Too Many Requests", Retry_After="1")
        async with Hostile(answer) as server, a_client(server) as api:
            asking = [asyncio.create_task(ask(api)) for _ in range(3)]
            await faults(api, "throttled", 1)
            asking[0].cancel()
            asking[1].cancel()
            assert await asking[2] == []
            await asyncio.gather(*asking, return_exceptions=True)
            assert asking[0].cancelled()

    run(scenario())


# As a library


def test_as_a_library_it_takes_its_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with Hostile(page(history([START, START + 1]))) as server:
            monkeypatch.chdir(tmp_path)  # away from a developer's `.env`
            monkeypatch.delenv("VIGIL_API_URL", raising=False)
            monkeypatch.setenv("HL_API_URL", server.url)
            monkeypatch.setenv("VIGIL_WEIGHT_PER_MINUTE", "600")
            async with HyperliquidAPI() as api:
                assert api.limiter.budget.weight_per_period == 600
                fills = [fill async for got in api.iter_user_fills(USER, START, END) for fill in got]
            assert [(fill["px"], fill.time) for fill in fills] == [("42000.5", START), ("42000.5", START + 1)]
            assert json.loads(server.requests[0].body)["user"] == USER
            assert server.url in repr(api)

    run(scenario())
