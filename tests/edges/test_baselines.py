"""The clients that vigil is measured against do what is said of them, on the same exchange with the same ruler."""

from __future__ import annotations

import pytest

from benchmarks.baselines import Place
from benchmarks.baselines.contest import CLIENTS, END_MS, START_MS, Standing, contest
from tests.kit.loop import run
from vigil.simulator import FaultPlan, Simulator, SimulatorConfig

CUT_SEED = 0
LENGTHS = {0: 4_500, 1: 30, 2: 470}


def stand(name: str, config: SimulatorConfig) -> Standing:
    async def scenario() -> Standing:
        async with Simulator(config) as exchange:
            return await contest(CLIENTS[name], Place(exchange.url, 0.1, START_MS, END_MS))

    return run(scenario())


@pytest.fixture(scope="module")
def generous() -> SimulatorConfig:
    """An exchange without a budget."""
    return SimulatorConfig(users=len(LENGTHS), seed=CUT_SEED, lengths=LENGTHS, weight_per_minute=0)


@pytest.fixture(scope="module")
def times(generous: SimulatorConfig) -> list[list[int]]:
    """Of each user's fills in the window; the first one's second page begins inside a millisecond of the first."""
    population = Simulator(generous).population
    found = [[ms for ms in population.history(user).times if START_MS <= ms <= END_MS] for user in LENGTHS]
    assert len(found[0]) > 2_000
    assert found[0][1_999] == found[0][2_000], "choose a seed whose page edge cuts a millisecond"
    return found


def test_vigil_brings_everything_home(generous: SimulatorConfig) -> None:
    assert stand("vigil", generous).share == 1.0


def test_paging_backward_keeps_the_first_page_of_a_long_history_and_loses_the_rest(
    generous: SimulatorConfig, times: list[list[int]]
) -> None:
    found = stand("the plan's client", generous)
    assert found.share == sum(min(len(one), 2_000) for one in times) / sum(map(len, times))


def test_last_plus_one_loses_what_page_edges_cut_off_their_milliseconds(
    generous: SimulatorConfig, times: list[list[int]]
) -> None:
    left, lost = times[0], 0
    while len(left) > 2_000:
        edge = left[1_999]
        lost += left[2_000:].count(edge)
        left = [ms for ms in left if ms > edge]
    rows = sum(map(len, times))
    assert lost > 0
    assert stand("last + 1", generous).share == (rows - lost) / rows


def test_a_unique_tid_loses_the_other_side_of_trades_between_users(generous: SimulatorConfig) -> None:
    found = stand("vigil", generous)
    assert found.by_tid < found.share


@pytest.mark.parametrize("name", ["vigil", "the plan's client", "last + 1"])
def test_refusals_delay_a_client_and_cost_it_no_row_of_short_histories(name: str) -> None:
    faults = FaultPlan({"429": 0.3}, seed=1)
    found = stand(name, SimulatorConfig(users=20, seed=1, scale=0.1, weight_per_minute=0, faults=faults))
    assert found.refused > 0
    assert found.share == 1.0
