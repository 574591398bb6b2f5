"""What is left, in weight and in time."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.forecast import FEWEST, LEAST_USER_WEIGHT, Forecast, Sample, duration, weight_left
from vigil.tally import LaneState, Reading, Tally


def sample(values: list[float]) -> Sample:
    seen = Sample()
    for value in values:
        seen.add(value)
    return seen


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_mean_and_deviation_are_those_of_the_numbers(values: list[float]) -> None:
    seen = sample(values)
    assert seen.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert seen.deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-3)


def test_nothing_is_guessed_from_a_handful() -> None:
    assert weight_left(10, sample([20.0] * (FEWEST - 1))) is None


def test_users_that_are_alike_leave_no_doubt() -> None:
    assert weight_left(100, sample([21.0] * 10)) == Forecast(2100, 2100, 2100)


def test_a_user_costs_at_least_a_request() -> None:
    left = weight_left(1000, sample([20.0] * 9 + [5000.0]))
    assert left is not None
    assert left.low == 1000 * LEAST_USER_WEIGHT


def test_nine_of_ten_ranges_hold_what_then_comes() -> None:
    """Histories are heavy-tailed: most users weigh 21, some hundreds."""
    draw = random.Random(4)
    held = 0
    for _ in range(400):
        population = [20 + draw.paretovariate(2.5) * 10 for _ in range(600)]
        left = weight_left(400, sample(population[:200]))
        assert left is not None
        held += left.low <= sum(population[200:]) <= left.high
    assert 0.83 <= held / 400 <= 0.97


def test_the_time_is_the_weight_over_the_budget_of_all_workers_without_paused_lanes() -> None:
    tally = Tally(users_left=100, period_seconds=60.0, others_weight=1200)
    tally.lanes = (LaneState("a", 1200, 0, 0, open=True), LaneState("b", 1200, 0, 0, open=False))
    assert tally.eta() is None
    for number in range(FEWEST):
        user = str(number)
        tally.reading[user] = Reading(0.0)
        tally.read_page(user, 2000, 120)
        tally.read_user(user)
    left = tally.eta()
    assert left is not None
    assert left.expected == pytest.approx(100 * 120 / 2400 * 60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (7200, "2.0 h"),
        (90_000, "25.0 h"),
        (180_000, "2.1 days"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
