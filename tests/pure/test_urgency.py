"""Whose history is being lost, and who goes first: the estimate's branches and properties."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.kit.factories import steadily
from vigil.urgency import (
    DAY_HOURS,
    EXTRAPOLATED_HOURS,
    NEGLIGIBLE_PER_HOUR,
    REACH_ROWS,
    WEEK_HOURS,
    Estimate,
    Trades,
    estimate,
    weight,
)

YEAR_HOURS = 24 * 365.0


@st.composite
def some_trades(draw: st.DrawFn) -> Trades:
    rows = draw(st.integers(0, REACH_ROWS))
    of_week = draw(st.integers(0, rows))
    return Trades(rows, draw(st.integers(0, of_week)), of_week)


some_hours = st.floats(-1e6, 1e6, allow_nan=False)


# Pace


def test_a_newcomers_pace_is_that_of_the_last_day() -> None:
    assert estimate(Trades(240, 240, 240), YEAR_HOURS, 0).fills_per_hour == 240 / DAY_HOURS


def test_the_pace_of_who_pauses_for_a_day_is_that_of_the_week() -> None:
    assert estimate(Trades(840, 0, 840), YEAR_HOURS, 0).fills_per_hour == 840 / WEEK_HOURS


def test_archives_of_a_few_hours_are_not_taken_for_a_day() -> None:
    assert estimate(Trades(60, 60, 60), 6, 0).fills_per_hour == 10
    assert estimate(Trades(60, 60, 60), 0.001, 0).fills_per_hour == 60  # nor is a moment taken for a pace


# None


def test_who_stopped_trading_is_not_urgent_however_much_there_was() -> None:
    assert estimate(Trades(9_000, 0, 0), YEAR_HOURS, 100).urgency == 0


def test_who_has_nothing_left_within_reach_is_not_urgent_however_fast() -> None:
    gone = estimate(Trades(REACH_ROWS, REACH_ROWS, REACH_ROWS), YEAR_HOURS, 0)
    assert (gone.urgency, gone.within_reach, gone.lost_per_hour, gone.at_stake) == (0, 0, 0, 0)
    assert estimate(Trades(REACH_ROWS - 1, 3_000, 3_000), YEAR_HOURS, 0).urgency > 0


def test_what_was_traded_since_the_archives_end_is_gone_too() -> None:
    trades = Trades(9_000, 2_400, 2_400)  # 100 an hour
    assert estimate(trades, YEAR_HOURS, 9.9).within_reach == pytest.approx(10)
    assert estimate(trades, YEAR_HOURS, 10.1).urgency == 0


def test_a_pace_is_not_extrapolated_beyond_a_week_nor_into_the_past() -> None:
    trades = Trades(1_000, 240, 240)
    assert estimate(trades, YEAR_HOURS, YEAR_HOURS) == estimate(trades, YEAR_HOURS, EXTRAPOLATED_HOURS)
    assert estimate(trades, YEAR_HOURS, -5) == estimate(trades, YEAR_HOURS, 0)


def test_who_would_lose_less_than_a_fill_a_day_is_not_urgent() -> None:
    slow = estimate(Trades(400, 23, 23), YEAR_HOURS, 0)  # 23 fills a day, 4 % of which push one of the window out
    fast = estimate(Trades(400, 26, 26), YEAR_HOURS, 0)
    assert slow.lost_per_hour < NEGLIGIBLE_PER_HOUR <= fast.lost_per_hour
    assert slow.urgency == 0 < fast.urgency


# Order


def test_of_two_with_the_same_pace_who_is_nearer_to_the_end_goes_first() -> None:
    near, far = (estimate(Trades(rows, 480, 480), YEAR_HOURS, 0) for rows in (9_000, 1_000))
    assert near.fills_per_hour == far.fills_per_hour
    assert near.urgency > far.urgency > 0


def test_a_history_of_one_page_costs_that_page_and_the_look_behind_it() -> None:
    assert weight(0) == 20
    assert weight(2_000) == 20 + 100 + 20


@steadily(300)
@given(some_trades(), st.integers(1, 500), some_hours)
def test_who_trades_faster_is_never_less_urgent_as_long_as_something_is_left(
    trades: Trades, more: int, known_hours: float
) -> None:
    of_day, of_week = trades.rows_of_day + more, trades.rows_of_week + more
    assume(of_week <= trades.rows)
    faster = Trades(trades.rows, of_day, of_week)
    assert estimate(faster, known_hours, 0).urgency >= estimate(trades, known_hours, 0).urgency


@steadily(500)
@given(some_trades(), some_hours, some_hours)
def test_an_estimate_is_finite_and_promises_no_more_than_there_is(
    trades: Trades, known_hours: float, unknown_hours: float
) -> None:
    found = estimate(trades, known_hours, unknown_hours)
    numbers = (found.rows_after, found.fills_per_hour, found.urgency, found.lost_per_hour, found.at_stake)
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert found.within_reach + found.rows_after >= REACH_ROWS - 1e-6
    assert found.at_stake <= found.within_reach + 1e-6
    assert found.lost_per_hour <= min(found.fills_per_hour, found.within_reach)
    assert (found.urgency > 0) == (found.lost_per_hour >= NEGLIGIBLE_PER_HOUR)


@steadily(300)
@given(some_trades(), some_hours, st.floats(0, 200), st.floats(0, 200))
def test_time_only_takes_from_what_is_within_reach(trades: Trades, known: float, earlier: float, since: float) -> None:
    before, after = (estimate(trades, known, hours) for hours in (earlier, earlier + since))
    assert after.within_reach <= before.within_reach
    assert before.within_reach > 0 or after.urgency == 0


def test_the_order_saves_nearly_what_the_best_of_all_orders_saves() -> None:
    rng = random.Random(7)
    for case in range(40):
        hours = 10 ** rng.uniform(-1, 1.5)  # that reading all of them takes: from ample time to hopeless
        users = [_drawn(rng) for _ in range(6)]
        weight_per_hour = sum(weight(user.within_reach) for user in users) / hours
        best = max(_saved(order, weight_per_hour) for order in permutations(users))
        ours = _saved(sorted(users, key=lambda user: -user.urgency), weight_per_hour)
        assert ours >= 0.9 * best, f"case {case}: {ours:.0f} rows of {best:.0f}"


def _drawn(rng: random.Random) -> Estimate:
    rows = rng.randrange(100, REACH_ROWS)
    return estimate(Trades(rows, *[min(rows, round(10 ** rng.uniform(0, 4)))] * 2), YEAR_HOURS, 0)


def _saved(order: tuple[Estimate, ...] | list[Estimate], weight_per_hour: float) -> float:
    """Rows that reading in this order saves, where each window holds more than is within reach."""
    hours = saved = 0.0
    for user in order:
        left = max(0.0, user.within_reach - user.fills_per_hour * hours)
        saved += left
        hours += weight(left) / weight_per_hour
    return saved
