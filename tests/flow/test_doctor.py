"""What `doctor` finds, and that each trouble comes with its remedy."""

from __future__ import annotations

import json
from typing import Any

from tests.kit.backfill import small, tell
from tests.kit.command import environment, vigil
from tests.kit.loop import run
from vigil.simulator import FaultPlan, Simulator


async def examined(*flags: str, env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by subject."""
    told = await vigil("doctor", "--json", *flags, env=env)
    assert told.err == "", told.err
    return told.code, {one["subject"]: one for one in json.loads(told.out)["findings"]}


def test_where_a_run_would_work_nothing_is_a_problem_and_a_lane_costs_20_weight(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 1)) as exchange:
            lanes = ("--lane", "127.0.0.2", "--lane", "127.0.0.3")
            code, found = await examined(*lanes, env=environment(migrated_url, exchange))
            assert code == 0
            assert {one["level"] for one in found.values()} <= {"ok", "warning"}
            assert exchange.stats.weight_by_address == {"127.0.0.2": 20, "127.0.0.3": 20}
            assert found["schema"]["found"] == "up to date"

    run(scenario())


def test_each_trouble_has_its_remedy(database_url: str) -> None:
    async def scenario() -> None:
        code, found = await examined(
            env=environment(database_url, VIGIL_API_URL="http://127.0.0.1:9/info", VIGIL_LANE="here")
        )
        assert code == 1
        assert found["lane here"]["level"] == "problem"
        assert "VIGIL_API_URL" in found["lane here"]["remedy"]
        assert "vigil-backfill migrate" in found["schema"]["remedy"]
        await tell(database_url, "CREATE TABLE fills (nothing int)")
        _, found = await examined(env=environment(database_url, VIGIL_API_URL="http://127.0.0.1:9/info"))
        assert found["schema"]["level"] == "problem"
        away = "postgresql://nobody:secret@127.0.0.1:9/x"
        code, found = await examined(env=environment(away, VIGIL_API_URL="http://127.0.0.1:9/info"))
        assert (code, found["database"]["level"]) == (1, "problem")
        assert found["database"]["remedy"]

    run(scenario())


def test_an_address_whose_weight_is_spent_is_no_fault_of_the_url(migrated_url: str) -> None:
    async def scenario() -> None:
        plan = FaultPlan.parse(["429=1"], seed=1)
        async with Simulator(small(1, 1, faults=plan)) as exchange:
            code, found = await examined("--lane", "127.0.0.2", env=environment(migrated_url, exchange))
            lane = found["lane 127.0.0.2"]
            assert (code, lane["level"], "VIGIL_API_URL" in lane["remedy"]) == (0, "warning", False)

    run(scenario())


def test_settings_are_told_with_their_origin_and_without_secrets(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(1, 1)) as exchange:
            proxy = f"http://me:hunter2@127.0.0.1:{exchange.port}"
            env = environment(migrated_url, exchange, VIGIL_LANE=proxy)
            told = await vigil("doctor", "--json", "--settings", env=env)
            given = {one["name"]: one for one in json.loads(told.out)["settings"]}
            assert given["VIGIL_DATABASE_URL"] == {
                "name": "VIGIL_DATABASE_URL", "value": "***", "origin": "environment"
            }  # fmt: skip
            assert given["VIGIL_CONCURRENCY"]["origin"] == "default"
            assert "hunter2" not in told.out
            assert migrated_url not in told.out

    run(scenario())
