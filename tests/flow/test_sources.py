"""A second host that keeps more: what the first one's cap hid is filled in, under the other host's own rules."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from tests.kit.backfill import PERIOD_SECONDS, WINDOW, ask, backfill, compared, everybody, settings_for, small, tell
from tests.kit.command import environment, start, vigil
from tests.kit.loop import run
from vigil.claims import Window, users_to_ask
from vigil.db import session
from vigil.pipeline import Run, Twap
from vigil.simulator import Simulator
from vigil.sources import Source, load_source
from vigil.tally import Tally

KEY = "schluessel-4713"
LENGTHS = {0: 3_000, 1: 2_400, 2: 1_500}
HIDING: dict[str, Any] = {"lengths": LENGTHS, "retention_rows": 800}
KEEPING: dict[str, Any] = {"lengths": LENGTHS, "retention_rows": 1_000_000, "page_rows": 730, "weight_per_minute": 0}


class Keeper:
    """A host in front of a simulator: wants a key, and has a weight table of its own, kept strictly.

    30 weight a request and one more for every 7 rows begun; 700 within any period.
    """

    table = "weight_per_minute = 700\nbase_weight = 30\nrows_per_weight = 7\npage_rows = 730\n"

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.requests = self.throttled = self.refused = 0
        self.answers: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.reached = asyncio.Event()
        self.closes_after: int | None = None
        self._charges: deque[tuple[float, int]] = deque()

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_post("/history", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/history"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._client.close()

    def file(self, directory: Path, key: str = KEY, more: str = "") -> Path:
        """A sources file that describes this host as `other`."""
        path = directory / "sources.toml"
        headers = f'headers = {{ X-Key = "{key}" }}\n'
        path.write_text(f'[sources.other]\napi_url = "{self.url}"\n{headers}{self.table}{more}')
        return path

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests += 1
        if self.closes_after is not None and self.requests > self.closes_after:
            self.reached.set()
            await self.open.wait()
        if request.headers.get("X-Key") != KEY:
            self.refused += 1
            return web.Response(status=401, text=f"no such key: {request.headers.get('X-Key')}")
        if self._spent() + 30 > 700:
            self.throttled += 1
            return web.json_response(None, status=429)
        self._charges.append((time.monotonic(), 30))
        async with self._client.post(self.simulator.url, data=body) as answer:
            text = await answer.text()
        rows = len(json.loads(text))
        self.answers.append(rows)
        self._charges.append((time.monotonic(), -(-rows // 7)))
        return web.Response(status=answer.status, text=text, content_type="application/json")

    def _spent(self) -> int:
        while self._charges and self._charges[0][0] <= time.monotonic() - PERIOD_SECONDS:
            self._charges.popleft()
        return sum(weight for _, weight in self._charges)


def other(exchange: Simulator, keeper: Keeper, directory: Path, more: str = "") -> Source:
    return load_source(settings_for(exchange, sources_file=keeper.file(directory, more=more)), "other")


def title_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def ask_other(exchange: Simulator, url: str, source: Source, verdict: str = "truncated", **how: Any) -> Tally:
    """`run --only VERDICT --source other`."""
    async with session(url) as connection:
        users = await users_to_ask(connection, [verdict], source.name)
    return await Run(settings_for(exchange), url, WINDOW, users=users, source=source, ask=True, **how).execute()


TOLD = "SELECT string_agg(DISTINCT verdict || ' by ' || array_to_string(sources, '+'), ', ') FROM backfill_progress"


def test_what_the_cap_hid_is_filled_in_and_truncated_users_become_complete(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Simulator(small(8, 31, **HIDING)) as first,
            Simulator(small(8, 31, **KEEPING)) as whole,
            Keeper(whole) as keeper,
        ):
            await backfill(first, migrated_url)
            hidden = (await compared(whole, migrated_url)).missing
            assert hidden == sum(LENGTHS.values()) - 3 * 800
            source = other(first, keeper, tmp_path)
            tally = await ask_other(first, migrated_url, source)
            assert (tally.users_done, tally.inserted, tally.updated, tally.exit_code) == (3, hidden, 0, 0)
            assert (keeper.throttled, keeper.refused, tally.requests) == (0, 0, keeper.requests)
            assert tally.weight == 30 * keeper.requests + sum(-(-rows // 7) for rows in keeper.answers)
            found = await compared(whole, migrated_url)
            assert found.equal, found.examples
            of_three = f"{TOLD} WHERE source = 'other'"
            assert await ask(migrated_url, of_three) == "complete by hyperliquid+other"
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE source = 'other'") == 3

    run(scenario())


def test_a_user_is_asked_for_at_a_source_once_unless_its_window_grew(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        hiding = {**HIDING, "lengths": {0: 3_000}, "retention_rows": 2_900}
        async with (
            Simulator(small(1, 32, **hiding)) as first,
            Simulator(small(1, 32, **hiding)) as no_better,
            Keeper(no_better) as keeper,
        ):
            source = other(first, keeper, tmp_path)
            earlier = Window(WINDOW.start_ms, WINDOW.end_ms - 10 * 86_400_000)
            await backfill(first, migrated_url, window=earlier)
            assert (await ask_other_in(earlier, first, migrated_url, source)).requests > 0
            assert await ask(migrated_url, TOLD) == "truncated by hyperliquid+other"
            assert (await ask_other_in(earlier, first, migrated_url, source)).requests == 0
            await backfill(first, migrated_url)
            assert await ask(migrated_url, TOLD) == "truncated by hyperliquid"
            assert (await ask_other(first, migrated_url, source)).requests > 0
            assert (await ask_other(first, migrated_url, source)).requests == 0
            assert keeper.throttled == 0

    run(scenario())


async def ask_other_in(window: Window, exchange: Simulator, url: str, source: Source) -> Tally:
    users = everybody(exchange)
    return await Run(settings_for(exchange), url, window, users=users, source=source, ask=True).execute()


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_stopped_and_started_again_the_command_goes_on_and_nobody_else_does(
    migrated_url: str, tmp_path: Path, how: str
) -> None:
    async def scenario() -> None:
        async with (
            Simulator(small(8, 33, **HIDING)) as first,
            Simulator(small(8, 33, **KEEPING)) as whole,
            Keeper(whole) as keeper,
        ):
            await backfill(first, migrated_url)
            env = environment(migrated_url, first, VIGIL_SOURCES_FILE=keeper.file(tmp_path))
            command = ("run", "--only", "truncated", "--source", "other", "--concurrency", "2")
            keeper.closes_after = 4
            keeper.open.clear()
            process = await start(*command, env=env)
            async with asyncio.timeout(60):
                await keeper.reached.wait()
            process.send_signal(signal.Signals[how])
            _, err = await process.communicate()
            assert process.returncode in (130, -9), err
            keeper.open.set()

            served = first.stats.requests
            plain = await vigil("run", env=env)
            assert plain.code == 0, plain.err
            assert first.stats.requests == served
            assert "users wait for what other has of them and were left alone" in plain.err

            rest = await vigil(*command, env=env)
            assert rest.code == 0, rest.err
            assert (keeper.throttled, keeper.refused) == (0, 0)
            found = await compared(whole, migrated_url)
            assert found.equal, found.examples
            assert await ask(migrated_url, f"{TOLD} WHERE source = 'other'") == "complete by hyperliquid+other"
            done = await vigil(*command, env=env)
            assert "no user has the verdict truncated" in done.err

    run(scenario())


def test_a_source_alone_can_be_read_first_and_is_recorded(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Simulator(small(8, 34, **HIDING)) as first,
            Simulator(small(8, 34, **KEEPING)) as whole,
            Keeper(whole) as keeper,
        ):
            source = other(first, keeper, tmp_path)
            users = everybody(whole)
            await Run(settings_for(first), migrated_url, WINDOW, users=users, source=source).execute()
            assert (first.stats.requests, keeper.throttled) == (0, 0)
            found = await compared(whole, migrated_url)
            assert found.equal, found.examples
            assert await ask(migrated_url, "SELECT array_agg(DISTINCT sources) FROM backfill_progress") == [["other"]]

    run(scenario())


def test_a_history_begun_at_one_host_is_read_anew_at_another(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            Simulator(small(3, 35, **HIDING)) as first,
            Simulator(small(3, 35, **KEEPING)) as whole,
            Keeper(whole) as keeper,
        ):
            begun = Window(WINDOW.start_ms, WINDOW.end_ms - 90 * 86_400_000)
            await backfill(first, migrated_url, window=begun)
            source, users = other(first, keeper, tmp_path), everybody(whole)
            await Run(settings_for(first), migrated_url, WINDOW, users=users, source=source).execute()
            found = await compared(whole, migrated_url)
            assert found.equal, found.examples
            assert await ask(migrated_url, TOLD) == "complete by other"

    run(scenario())


def test_rows_that_both_hosts_have_are_stored_once_and_those_that_differ_are_counted(
    migrated_url: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with Simulator(small(3, 36, lengths={0: 1_000})) as first, Keeper(first) as keeper:
            await backfill(first, migrated_url)
            key = "user_address, time, coin, oid, tid, side"
            one = f"SELECT {key} FROM fills ORDER BY {key} LIMIT 1"
            await tell(migrated_url, f"UPDATE fills SET fee = fee + 1 WHERE ({key}) = ({one})")
            rows = await ask(migrated_url, "SELECT count(*) FROM fills")
            assert not (await compared(first, migrated_url)).equal
            source = other(first, keeper, tmp_path)
            tally = await ask_other(first, migrated_url, source, "complete")
            assert (tally.inserted, tally.updated, tally.already_there) == (0, 1, rows - 1)
            found = await compared(first, migrated_url)
            assert found.equal, found.examples

    run(scenario())


def test_a_run_neither_takes_nor_awaits_users_that_another_source_is_asked_for(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(4, 37)) as exchange:
            await backfill(exchange, migrated_url)
            await tell(migrated_url, "INSERT INTO backfill_workers SELECT 7, 'elsewhere', 1, now(), now() + '1 hour'")
            async with session(migrated_url) as holding:  # the other worker lives
                assert await holding.fetchval("SELECT pg_try_advisory_lock(7)")
                await tell(
                    migrated_url,
                    "UPDATE backfill_progress SET completed = false, source = 'third', until_ms = window_end_ms,"
                    " claimed_by = CASE WHEN user_address = $1 THEN 7 END",
                    everybody(exchange)[0],
                )
                before = exchange.stats.requests
                for users in (everybody(exchange), None):
                    run_again = Run(settings_for(exchange), migrated_url, WINDOW, users=users)
                    async with asyncio.timeout(60):
                        tally = await run_again.execute()
                    assert tally.users_elsewhere == {"third": 4}
                    assert (tally.users_total, tally.users_claimed) == (0, 0)
                assert exchange.stats.requests == before

    run(scenario())


def test_a_key_is_seen_nowhere_even_if_the_host_repeats_it(migrated_url: str, tmp_path: Path) -> None:
    wrong = "geheim-4715-geheim"

    async def scenario() -> None:
        async with Simulator(small(3, 38)) as first, Keeper(first) as keeper:
            path = keeper.file(tmp_path, key=wrong)
            env = environment(migrated_url, first, VIGIL_SOURCES_FILE=path)
            users = "\n".join(everybody(first)).encode()
            process = await start("--debug", "run", "--source", "other", "--users-file", "-", env=env, stdin=users)
            title = title_of(process.pid)
            out, err = await process.communicate()
            assert (process.returncode, b"Traceback" in err) == (1, True), err
            assert keeper.refused >= 3
            plain = await vigil("run", "--source", "other", env=env)
            assert plain.code == 2, plain.err
            assert "Check the URL" in plain.err
            said = [title, out, err, (plain.out + plain.err).encode()]
            for command in (("status", "--json"), ("users", "list", "--json")):
                outcome = await vigil(*command, env=env)
                assert outcome.code == 0, outcome.err
                said.append((outcome.out + outcome.err).encode())
            assert b"no such key: ***" in b"".join(said)
            said.append((await ask(migrated_url, EVERYTHING)).encode())
            for text in said:
                assert wrong.encode() not in text

    run(scenario())


EVERYTHING = (
    "SELECT concat((SELECT json_agg(t) FROM backfill_progress AS t), (SELECT json_agg(t) FROM rejected_fills AS t))"
)


def test_a_source_that_makes_no_sense_stops_the_command_before_anything_is_asked(
    migrated_url: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 39)) as first, Keeper(first) as keeper:
            path = keeper.file(tmp_path, more="twap = false\n")
            env = environment(migrated_url, first, VIGIL_SOURCES_FILE=path)
            for arguments, sentence in (
                (("--source", "third"), "error: --source 'third': "),
                (("--source", "other", "--twap", "always"), "error: other serves no TWAP slices"),
            ):
                outcome = await vigil("run", *arguments, "--user", everybody(first)[0], env=env)
                assert outcome.code == 2
                assert sentence in outcome.err
            assert (keeper.requests, first.stats.requests) == (0, 0)

    run(scenario())


def test_users_whose_slices_only_the_exchange_serves_wait_for_it(migrated_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Simulator(small(3, 40, lengths={0: 50})) as first, Keeper(first) as keeper:
            source = other(first, keeper, tmp_path, more="twap = false\n")
            await backfill(first, migrated_url)
            wanted = "UPDATE backfill_progress SET slices_wanted = true, slices_cursor_ms = NULL, completed = false"
            await tell(migrated_url, wanted)
            async with asyncio.timeout(60):
                users = everybody(first)
                tally = await Run(settings_for(first), migrated_url, WINDOW, users=users, source=source).execute()
            assert (tally.requests, keeper.requests) == (0, 0)
            tally = await Run(settings_for(first), migrated_url, WINDOW, users=users, twap=Twap.AUTO).execute()
            assert (tally.requests, first.stats.by_type["userTwapSliceFillsByTime"]) == (3, 3)
            assert await ask(migrated_url, "SELECT bool_and(completed) FROM backfill_progress")

    run(scenario())
