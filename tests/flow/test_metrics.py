"""A run's numbers over HTTP, and whether it lives and can work."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.backfill import ask, everybody, small
from tests.kit.command import environment, finish, start, vigil
from tests.kit.database import REPOSITORY
from tests.kit.loop import run
from vigil.forecast import Sample
from vigil.metrics import serving_metrics
from vigil.simulator import Simulator
from vigil.tally import LaneState, Tally


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


def samples(text: str) -> dict[str, float]:
    """By name and labels."""
    return {
        one.name + "".join(f"[{value}]" for value in one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_the_numbers_of_a_run_are_scraped_while_it_runs_and_are_the_exchanges_own(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(60, 7, latency_seconds=(0.1, 0.1))) as exchange:
            env = environment(migrated_url, exchange)
            flags = ("--metrics-port", "0", "-v", "--json", "--users-file", "-")
            process = await start("run", *flags, env=env, stdin="\n".join(everybody(exchange)).encode())
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.readline()
            said = ""
            while (found := re.search(r"localhost:(\d+)/metrics", said)) is None:
                said += (line := await process.stderr.readline()).decode()
                assert line, said  # it has ended
            port = int(found[1])
            status, text = await get(port, "/metrics")
            seen = samples(text)
            assert status == 200
            assert 0 < seen["vigil_requests_total"] <= exchange.stats.requests
            assert 0 < seen["vigil_fills_total[inserted]"] <= await ask(migrated_url, "SELECT count(*) FROM fills")
            assert seen["vigil_users[done]"] > 0
            assert [await get(port, path) for path in ("/healthz", "/readyz")] == [(200, "ok\n"), (200, "ready\n")]
            assert (await get(port, "/else"))[0] == 404
            assert (await finish(process)).code == 0

    run(scenario())


def test_a_port_that_is_taken_is_refused_in_one_sentence(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 7)) as exchange:
            env = environment(migrated_url, exchange, VIGIL_METRICS_PORT=exchange.port)
            refused = await vigil("run", "--user", exchange.population.address(0), env=env)
            assert refused.code == 2
            assert f"--metrics-port {exchange.port} can't be listened on" in refused.err
            assert "Traceback" not in refused.err

    run(scenario())


@pytest.mark.parametrize(
    ("lane", "status"),
    [
        (LaneState("a", 1200, 0, 0, open=True), 200),
        (LaneState("a", 1200, 0, 0, open=False), 503),
        (LaneState("a", 0, 0, 0, open=True), 503),
    ],
)
def test_a_worker_without_an_open_lane_or_a_share_is_alive_but_not_ready(lane: LaneState, status: int) -> None:
    async def scenario() -> None:
        tally = Tally(lanes=(lane,))
        with serving_metrics(0, lambda: tally, {}) as port:
            assert (await get(port, "/readyz"))[0] == status
            assert (await get(port, "/healthz"))[0] == 200

    run(scenario())


def test_a_connection_that_says_nothing_and_one_that_breaks_hold_up_no_scrape(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def scenario() -> None:
        with serving_metrics(0, Tally, {}) as port:
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            _, broken = await asyncio.open_connection("127.0.0.1", port)
            broken.write(b"GET /metrics HTTP/1.1\r\n")
            broken.transport.abort()
            async with asyncio.timeout(5):
                assert (await get(port, "/metrics"))[0] == 200
            silent.close()

    run(scenario())
    assert capfd.readouterr().err == ""


def test_every_metric_is_documented_and_no_other() -> None:
    forecast = Sample()
    for weight in (20, 30, 40, 50, 60):
        forecast.add(weight)
    lane = LaneState("a", 1200, 0, 0, open=True)
    tally = Tally(lanes=(lane,), users_left=9, weight_of_user=forecast, faults={"late": 1})

    async def scenario() -> set[str]:
        with serving_metrics(0, lambda: tally, {}) as port:
            return {name.split("[")[0] for name in samples((await get(port, "/metrics"))[1])}

    told = (REPOSITORY / "docs" / "metrics.md").read_text("utf-8")
    assert set(re.findall(r"\bvigil_\w+", told)) == run(scenario())


def test_a_worker_whose_loop_hangs_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vigil.metrics.PATIENCE_SECONDS", 0.2)

    async def scenario() -> None:
        hanging = asyncio.Event()

        def look() -> Tally:
            raise TimeoutError  # what the thread meets when the loop does not come round

        with serving_metrics(0, look, {}) as port:
            status, text = await get(port, "/healthz")
            assert (status, "did not answer" in text) == (503, True)
        hanging.set()

    run(scenario())
