"""One worker with several addresses: each has its own budget, gate and health, and no request waits for a dead one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import socket
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.kit.backfill import ask, backfill, compared, everybody, settings_for, small
from tests.kit.command import environment, finish, start, vigil
from tests.kit.loop import run
from tests.kit.server_model import Latency, ServerModel, every_window
from tests.kit.virtual_time import run_virtual
from vigil.api import HyperliquidAPI
from vigil.egress import Egress, read_lanes
from vigil.errors import ExchangeError, ExchangeUnreachable, UsageError
from vigil.limiter import BASE_WEIGHT, Queue, WeightLimiter, admission
from vigil.settings import Settings
from vigil.simulator import Simulator

TWO = "127.0.0.2,127.0.0.3"
NOT_OURS = "198.51.100.7"
"""From the range for documentation: no machine has it."""


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- what a lane may be called ---------------------------------------------------------------


def test_a_lane_is_an_address_a_proxy_or_a_name() -> None:
    assert read_lanes("127.0.0.2") == (Egress("127.0.0.2", ip="127.0.0.2"),)
    assert read_lanes("host-1.example") == (Egress("host-1.example"),)
    proxy = "http://me:secret@proxy.example:3128"
    assert read_lanes(f"{proxy}, [::1]") == (Egress("proxy.example:3128", proxy=proxy), Egress("::1", ip="::1"))
    assert "secret" not in repr(read_lanes(proxy))


def test_one_address_written_in_two_ways_is_one_lane() -> None:
    assert read_lanes("2001:DB8:0::7")[0].name == read_lanes("[2001:db8::7]")[0].name


@pytest.mark.parametrize(
    ("lanes", "sentence"),
    [
        ("127.0.0.2,127.0.0.2", "given twice"),
        ("one,127.0.0.2", "by which address"),
        ("127.0.0.2,,127.0.0.3", "1 to 200"),
        ("socks5://proxy.example:1", "no proxy"),
        ("http://:99999", "no proxy"),
        ("x" * 201, "1 to 200"),
        ("0.0.0.0", "no address that requests could leave by"),
        ("127.0.0.2,::ffff:127.0.0.2", "given twice"),
    ],
)
def test_lanes_that_can_not_work_are_refused(lanes: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_lanes(lanes)


def test_a_proxys_password_is_in_no_sentence() -> None:
    with pytest.raises(UsageError) as refusal:
        read_lanes("ftp://me:secret@proxy.example")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("sign", "/,#?")
@pytest.mark.parametrize("password", [("zwo", "elf"), ("12", "34")])
def test_a_password_that_is_not_escaped_is_seen_in_no_sentence(sign: str, password: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="can't be read") as refusal:
        read_lanes(f"127.0.0.2,http://egon:{sign.join(password)}@proxy.example:3128")
    assert not any(piece in f"{refusal.value}{refusal.value.hint}" for piece in (*password, "egon"))


def test_a_proxy_that_refuses_us_does_not_make_our_password_known() -> None:
    async def scenario() -> None:
        heard: list[bytes] = []
        proxy = await asyncio.start_server(refuse("407 Proxy Authentication Required", heard), "127.0.0.1", 0)
        lane = f"http://me:geheim%2C4713@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with proxy:
            for scheme in ("http", "https"):
                given: dict[str, Any] = {"api_url": f"{scheme}://127.0.0.1:9/info", "lane": lane, "_env_file": None}
                async with HyperliquidAPI(Settings(**given)) as api:
                    with pytest.raises(ExchangeError, match="407") as refusal:
                        await api.probe()
                assert "geheim" not in "".join(traceback.format_exception(refusal.value))
        login = b64encode(b"me:geheim,4713")
        assert [head.lower().count(b"proxy-authorization: basic " + login.lower()) for head in heard] == [1, 1]

    run(scenario())


def refuse(
    status: str, heard: list[bytes] | None = None
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A proxy, or an exchange, that answers this and nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(head)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    return answer


def test_an_address_that_is_not_this_machines_is_refused_before_anything_is_asked(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 1)) as exchange:
            refused = await vigil("run", "--lane", NOT_OURS, env=environment(migrated_url, exchange))
            assert (refused.code, exchange.stats.requests) == (2, 0)
            assert NOT_OURS in refused.err
            assert "Traceback" not in refused.err

    run(scenario())


# -- the limiters ----------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [2, 7])
@pytest.mark.parametrize("rows", [(0,), (2000,), (0, 3, 2000, 40)])
def test_n_lanes_do_n_times_the_work_and_none_is_answered_429(lanes: int, rows: tuple[int, ...]) -> None:
    minutes = 10

    async def scenario() -> list[ServerModel]:
        loop, queue = asyncio.get_running_loop(), Queue()
        limiters = [WeightLimiter(queue=queue) for _ in range(lanes)]
        servers = {limiter: ServerModel(every_window(1200, 60.0)) for limiter in limiters}
        pages = itertools.cycle(rows)

        async def pages_of_one() -> None:
            while loop.time() < 60 * minutes:
                async with admission(limiters) as (limiter, ticket):
                    ticket.weight = await servers[limiter].ask(next(pages), Latency(0.05, 0.05, 0.05))
                    ticket.answered = True

        async with asyncio.TaskGroup() as group:
            for _ in range(4 * lanes):
                group.create_task(pages_of_one())
        return list(servers.values())

    servers = run_virtual(scenario())
    assert sum(server.refused for server in servers) == 0
    for server in servers:  # the first minute fills the bucket's debt: leave it out
        spent = sum(weight for at, weight in server.charges if 60 <= at < 60 * minutes)
        assert spent >= 0.98 * 1200 * (minutes - 1)


def test_a_429_cools_one_lane_and_the_others_go_on() -> None:
    async def scenario() -> tuple[int, list[float]]:
        loop, queue = asyncio.get_running_loop(), Queue()
        cold, warm = limiters = [WeightLimiter(queue=queue) for _ in range(2)]
        refusals, tried = 0, []
        served = 0

        async def ask() -> None:
            nonlocal refusals, served
            while loop.time() < 120:
                async with admission(limiters) as (limiter, ticket):
                    ticket.weight = BASE_WEIGHT
                    await asyncio.sleep(0.1)
                    if limiter is warm:
                        ticket.answered, served = True, served + 1
                    else:
                        refusals += 1
                        tried.append(loop.time())
                        limiter.pause(ticket)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
        assert served >= 100, "the warm lane serves a request a second, whatever the other does"
        assert warm.gate.pauses == 0
        assert cold.gate.pauses == refusals - 1, "the two of the first wave close it once"
        return refusals, tried

    refusals, tried = run_virtual(scenario())
    later = tried[2:]
    assert refusals >= 6, "it is tried again and again"
    assert all(after - before >= 2.0 for before, after in itertools.pairwise(later)), "by one request after each pause"


def test_who_waits_first_goes_first_by_whichever_address_is_free() -> None:
    async def scenario() -> list[int]:
        queue, order = Queue(), []
        limiters = [WeightLimiter(40, 60.0, queue=queue) for _ in range(3)]

        async def ask(number: int) -> None:
            async with admission(limiters) as (_, ticket):
                order.append(number)
                await asyncio.sleep(0.5)
                ticket.weight = BASE_WEIGHT

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(ask(number))
        return order

    assert run_virtual(scenario()) == list(range(40))


def test_a_cancelled_waiter_leaves_its_place_to_the_next() -> None:
    async def scenario() -> None:
        queue = Queue()
        limiters = [WeightLimiter(20, 60.0, queue=queue) for _ in range(2)]

        async def ask() -> None:
            async with admission(limiters) as (_, ticket):
                ticket.weight = BASE_WEIGHT

        await asyncio.gather(ask(), ask())
        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(1)
        assert queue.waiting == 2
        first.cancel()
        await second
        assert (queue.waiting, [one.budget.in_flight for one in limiters]) == (0, [0, 0])

    run_virtual(scenario())


def test_a_pace_of_one_lane_does_not_hold_up_the_other() -> None:
    async def scenario() -> float:
        queue = Queue()
        limiters = [WeightLimiter(requests_per_period=40, queue=queue) for _ in range(3)]

        async def ask() -> None:
            async with admission(limiters) as (_, ticket):
                ticket.weight = BASE_WEIGHT

        async with asyncio.TaskGroup() as group:
            for _ in range(121):
                group.create_task(ask())
        return asyncio.get_running_loop().time()

    assert math.isclose(run_virtual(scenario()), 60.0, rel_tol=0.01)


# -- the client and the run ------------------------------------------------------------------


def test_a_run_by_two_addresses_uses_both_budgets_and_stores_the_truth(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 5, period_seconds=30.0)) as exchange:
            tally = await backfill(exchange, migrated_url, lane=TWO)
            spent = exchange.stats.weight_by_address
            assert set(spent) == set(TWO.split(","))
            assert min(spent.values()) > 0.3 * exchange.stats.weight_spent
            assert (tally.weight, exchange.stats.throttled) == (exchange.stats.weight_spent, 0)
            assert (await compared(exchange, migrated_url)).equal
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_workers") == 0
            left = await ask(migrated_url, "SELECT array_agg(DISTINCT lane ORDER BY lane) FROM backfill_spent_weight")
            assert left == TWO.split(","), "a restart within the minute knows what each address has spent"

    run(scenario())


def test_a_worker_of_two_lanes_is_one_worker_and_has_a_share_of_each(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(40, 5, latency_seconds=(2.0, 2.0))) as exchange:
            env = environment(migrated_url, exchange)
            known = "\n".join(exchange.population.addresses(0, 40)).encode()
            assert (await vigil("users", "add", "--users-file", "-", env=env, stdin=known)).code == 0
            process = await start("run", "--lane", "127.0.0.2", "--lane", "127.0.0.3", env=env)
            async with asyncio.timeout(30):
                while exchange.stats.rows_served == 0:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.01)
            status = await vigil("status", env=env)
            assert "1 alive" in status.out, status.out
            for lane in TWO.split(","):
                assert f"lane: {lane}, 1 workers" in status.out
            assert (await finish(process)).code == 0

    run(scenario())


def test_a_lane_that_can_not_connect_is_left_out_said_once_and_tried_again(
    migrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a proxy's; the simulator, which takes a proxy's requests too, plays it once it is up."""
    port = closed_port()

    async def scenario() -> None:
        config = small(60, 5, period_seconds=1.0, latency_seconds=(0.01, 0.02))
        async with Simulator(config) as exchange:
            lanes = f"http://127.0.0.1:{port},127.0.0.2"
            settings = settings_for(exchange, lane=lanes, retry_max_seconds=0.2)
            async with HyperliquidAPI(settings) as api:
                dead, alive = api.limiters
                users = exchange.population.addresses(0, 60)
                await asyncio.gather(*[api.get_user_fills_by_time(user, 0, 2**42) for user in users[:30]])
                assert not dead.gate.is_open
                assert alive.gate.is_open
                assert dead.weight_spent == 0, "nothing reached the exchange"
                server = await asyncio.start_server(lambda r, w: relay(r, w, exchange), "127.0.0.1", port)
                async with asyncio.timeout(20):
                    while not dead.gate.is_open:
                        await api.get_user_fills_by_time(users[0], 0, 2**42)
                assert dead.weight_spent > 0
                server.close()

    with caplog.at_level(logging.WARNING, "vigil"):
        run(scenario())
    assert sum("is left out until it works" in record.message for record in caplog.records) == 1


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: Simulator) -> None:
    """What a proxy does: the same bytes to the exchange and back."""
    there, to_exchange = await asyncio.open_connection("127.0.0.1", exchange.port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()
        target.close()

    await asyncio.gather(pump(reader, to_exchange), pump(there, writer), return_exceptions=True)


def test_when_no_lane_can_connect_the_run_is_over_as_with_one(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(3, 5)) as exchange:
            lanes = ",".join(f"http://127.0.0.1:{closed_port()}" for _ in range(2))
            with pytest.raises(ExchangeUnreachable):
                await backfill(exchange, migrated_url, lane=lanes)
            assert await ask(migrated_url, "SELECT count(*) FROM backfill_progress WHERE state = 'pending'") == 3

    run(scenario())


def test_a_lane_that_answers_nobody_is_left_out_and_no_user_fails_for_it(
    migrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that the exchange has blocked answers 403, while all is well by the other."""

    async def scenario() -> None:
        async with Simulator(small(60, 5, latency_seconds=(0.01, 0.02))) as exchange:
            blocked = await asyncio.start_server(refuse("403 Forbidden"), "127.0.0.1", 0)
            lanes = f"http://127.0.0.1:{blocked.sockets[0].getsockname()[1]},127.0.0.2"
            async with blocked:
                tally = await backfill(exchange, migrated_url, lane=lanes, retry_max_seconds=0.5)
            assert (tally.users_failed, tally.users_done) == (0, len(everybody(exchange)))
            assert [lane.open for lane in tally.lanes] == [False, True]
            assert (await compared(exchange, migrated_url)).equal

    with caplog.at_level(logging.WARNING, "vigil"):
        run(scenario())
    assert sum("is left out until it works" in record.message for record in caplog.records) == 1


def test_a_real_429_at_one_address_does_not_slow_the_other(migrated_url: str) -> None:
    """Somebody else has spent the first address's minute."""

    async def scenario() -> None:
        config = small(24, 5, period_seconds=60.0)
        async with Simulator(config) as exchange:
            users = exchange.population.addresses(0, 24)
            async with HyperliquidAPI(settings_for(exchange, lane="127.0.0.2")) as other:
                while exchange.stats.weight_spent < 1150:
                    await other.get_user_fills_by_time(users[0], 0, 1)
            async with HyperliquidAPI(settings_for(exchange, lane=TWO)) as api:
                await asyncio.gather(*[api.get_user_fills_by_time(user, 0, 1) for user in users])
                first, second = api.limiters
                assert first.gate.pauses > 0
                assert second.gate.pauses == 0

    run(scenario())


def test_weight_is_spent_by_the_queue_of_all_lanes_not_by_the_first_alone() -> None:
    async def scenario() -> list[int]:
        queue = Queue()
        limiters = [WeightLimiter(queue=queue) for _ in range(3)]

        async def ask() -> None:
            async with admission(limiters) as (_, ticket):
                await asyncio.sleep(0.1)
                ticket.weight = BASE_WEIGHT

        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(ask())
        return [limiter.weight_spent for limiter in limiters]

    assert run_virtual(scenario()) == [200, 200, 200]
