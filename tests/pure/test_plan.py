"""What a backfill will cost: the prices, the prior, the sample; and the limits of a run."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fleet.population import POPULATIONS, draw
from tests.kit.backfill import WINDOW
from vigil.allowance import Allowance, Limit, LimitReached, parse_span
from vigil.claims import Window
from vigil.errors import UsageError
from vigil.forecast import Forecast, Left, Sample, fleet_left, rows_weight
from vigil.known import Group, Job, Known, nothing_known
from vigil.plan import ENOUGH, ROW_BYTES, Basis, assumed, plan
from vigil.prior import END_MS, LAUNCH_MS, MIDDLE, TWAP_SHARE
from vigil.settings import Settings
from vigil.sources import main_source

NO_FILE: dict[str, Any] = {"_env_file": None}
JOB = Job(WINDOW, main_source(Settings(**NO_FILE)), twap="never")


def sample(values: list[int]) -> Sample:
    return Sample.of(len(values), sum(values), sum(value * value for value in values))


def having_read(rows: list[int], unread: int) -> Known:
    known = nothing_known(unread)
    known.others.read_rows, known.others.read_weight = sample(rows), sample([rows_weight(one) for one in rows])
    known.users["finished"], known.sliced = len(rows), 0.0
    return known


# -- prices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "weight"),
    [
        (0, 20),
        (1, 21),
        (20, 21),
        (21, 22),
        (1999, 120),
        (2000, 120 + 21),  # the full page might not be the last, and the next begins with its last row
        (3998, 120 + 120),
        (3999, 120 + 120 + 21),
        (10_000, 5 * 120 + 20 + 1),
    ],
)
def test_a_history_costs_its_pages_and_the_one_that_shows_there_are_no_more(rows: int, weight: int) -> None:
    assert rows_weight(rows) == weight


@given(st.integers(0, 60_000))
def test_the_weight_of_a_history_is_that_of_its_walk(rows: int) -> None:
    left, weight = rows, 0
    held = 0  # the row that a page repeats
    while True:
        page = min(2000, left + held)
        weight += 20 + math.ceil(page / 20)
        left -= page - held
        if page < 2000:
            break
        held = 1
    assert rows_weight(rows) == weight


# -- the sample -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10_000), min_size=1), st.lists(st.integers(0, 10_000), min_size=1))
def test_two_samples_added_are_the_sample_of_both(one: list[int], other: list[int]) -> None:
    both, added = sample(one + other), sample(one) + sample(other)
    assert added.count == both.count
    assert added.mean == pytest.approx(both.mean)
    assert added.deviation == pytest.approx(both.deviation, rel=1e-6, abs=1e-3)


def test_users_of_a_kind_are_guessed_from_their_kind_and_too_few_from_all() -> None:
    heavy, light = sample([500] * 10), sample([21] * 30)
    apart = fleet_left([Left(3, heavy), Left(100, light)])
    assert apart is not None
    assert apart.expected == pytest.approx(3 * 500 + 100 * 21)
    together = fleet_left([Left(3, sample([500] * 4)), Left(100, light)])
    assert together is not None
    assert together.expected == pytest.approx(3 * (4 * 500 + 30 * 21) / 34 + 100 * 21)
    assert fleet_left([Left(3, sample([500] * 2)), Left(100, sample([21]))]) is None


def test_from_users_read_the_rest_is_told_within_15_percent_nine_times_of_ten() -> None:
    rng = random.Random(7)
    lengths = [min(rows, 10_000) for rows in MIDDLE.rows()]
    close = held = 0
    for _ in range(60):
        population = rng.choices(lengths, k=9_000)
        found = plan(JOB, having_read(population[:2_000], 7_000))
        assert found.bases == (Basis.READ,)
        weight, rows = sum(map(rows_weight, population[2_000:])), sum(population[2_000:])
        close += abs(found.cost.weight.expected / weight - 1) < 0.15
        held += found.cost.weight.low <= weight <= found.cost.weight.high
        assert found.cost.rows.low < rows * 1.2
    assert close >= 54
    assert held >= 48


# -- the prior --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_prior_tells_a_population_drawn_from_it_within_15_percent(seed: int) -> None:
    users = draw(20_000, POPULATIONS["middle"], seed)
    rows = [users.rows(user) for user in range(len(users))]
    found = plan(JOB, nothing_known(len(users)))
    assert found.bases == (Basis.PRIOR,)
    assert found.cost.weight.expected == pytest.approx(sum(map(rows_weight, rows)), rel=0.15)
    assert found.cost.rows.expected == pytest.approx(sum(rows), rel=0.15)


@pytest.mark.parametrize("name", ["light", "heavy"])
def test_the_range_of_the_prior_holds_a_light_and_a_heavy_population(name: str) -> None:
    users = draw(20_000, POPULATIONS[name], 4)
    rows = [users.rows(user) for user in range(len(users))]
    found = assumed(JOB, len(users))
    assert found.weight.low * 0.99 <= sum(map(rows_weight, rows)) <= found.weight.high
    assert found.rows.low * 0.95 <= sum(rows) <= found.rows.high


def test_a_shorter_window_has_fewer_rows_and_one_before_the_launch_none() -> None:
    quarter = Window(WINDOW.start_ms, LAUNCH_MS + (END_MS - LAUNCH_MS) // 4)
    whole, part = assumed(JOB, 1000), assumed(replace(JOB, window=quarter), 1000)
    assert part.rows.expected == pytest.approx(whole.rows.expected / 4, rel=0.5)
    assert part.weight.expected > 1000 * 20
    before = assumed(replace(JOB, window=Window(0, LAUNCH_MS)), 1000)
    assert before.rows.expected < 2 * 1000  # of who has any, a row


def test_too_few_users_read_leave_it_to_the_prior() -> None:
    lengths = [40] * (ENOUGH - 1)
    assert plan(JOB, having_read(lengths, 10)).bases == (Basis.PRIOR,)
    assert plan(JOB, having_read([*lengths, 40], 10)).bases == (Basis.READ,)


# -- the plan ---------------------------------------------------------------------------------


def test_losing_users_that_nobody_like_them_was_read_of_are_guessed_from_archives() -> None:
    known = having_read([10] * ENOUGH, 100)
    known.losing = Group(unread=2, rows=6_000.0, weight=700.0)
    known.users["unread"] += 2
    found = plan(JOB, known)
    assert found.bases == (Basis.ARCHIVES, Basis.READ)
    assert found.cost.weight.expected == pytest.approx(700 + 100 * 21)
    assert found.cost.rows.expected == pytest.approx(6_000 + 100 * 10)
    known.losing.read_rows, known.losing.read_weight = sample([900] * ENOUGH), sample([65] * ENOUGH)
    assert plan(JOB, known).cost.weight.expected == pytest.approx(2 * 65 + 100 * 21)


def test_what_was_begun_counts_what_is_left_of_it() -> None:
    known = nothing_known(0)
    known.users |= {"partly": 2, "slices": 3}
    known.partly_rows, known.partly_weight = 4_000.0, 260.0
    found = plan(JOB, known)
    assert (found.bases, found.to_read) == ((), 5)
    assert found.cost.weight == Forecast(2 * 20 + 3 * 20, 260 + 3 * 20, 2 * 260 + 3 * 20)
    assert found.cost.rows.expected == 4_000


def test_slices_and_volumes_cost_a_request_each() -> None:
    bare = plan(JOB, nothing_known(1000)).cost.weight.expected

    def more(known: Known | None = None, **changes: object) -> float:
        return plan(replace(JOB, **changes), known or nothing_known(1000)).cost.weight.expected - bare  # type: ignore[arg-type]

    assert more(volume_check=True) == pytest.approx(20 * 1000)
    assert more(twap="always") == pytest.approx(20 * 1000)
    assert more(twap="auto") == pytest.approx(20 * 1000 * TWAP_SHARE)
    assert more(twap="always", source=JOB.source.model_copy(update={"twap": False})) == pytest.approx(0)
    read = having_read([0] * ENOUGH, 100)
    read.sliced = 0.5
    assert plan(replace(JOB, twap="auto"), read).cost.weight.expected == pytest.approx(100 * 30)


def test_hours_are_weight_by_the_budget_of_all_addresses_or_requests_by_their_cap() -> None:
    found = plan(JOB, having_read([0] * ENOUGH, 60_000))  # a request each
    assert found.requests.expected == pytest.approx(60_000)
    assert found.seconds(1, 60.0).expected == pytest.approx(60_000 * 20 / 1200 * 60)
    assert found.seconds(10, 60.0).expected == pytest.approx(60_000 * 20 / 1200 * 60 / 10)
    paced = replace(JOB, source=JOB.source.model_copy(update={"requests_per_minute": 40.0}))
    assert plan(paced, found.known).seconds(4, 60.0).expected == pytest.approx(60_000 / 40 * 60 / 4)


def test_disk_is_told_packed_only_where_it_can_be_packed() -> None:
    known = having_read([1000] * ENOUGH, 1000)
    told = plan(JOB, known).as_dict([1], 60.0)["disk"]
    assert told["bytes"]["expected"] == 1000 * 1000 * ROW_BYTES
    assert told["packed_bytes"]["expected"] < told["bytes"]["expected"] / 2
    known.packs, known.row_bytes = False, 300.0
    told = plan(JOB, known).as_dict([1], 60.0)["disk"]
    assert (told["bytes"]["expected"], told["packed_bytes"], told["measured"]) == (1000 * 1000 * 300, None, True)


# -- the limits of a run ----------------------------------------------------------------------


def test_what_is_in_flight_is_reserved_at_a_full_page() -> None:
    reached: list[Limit | None] = []
    allowance = Allowance(400, on_reached=lambda: reached.append(allowance.reached))
    assert allowance.admits(spent=160, in_flight=1, full_page=120)
    assert not allowance.admits(spent=160, in_flight=2, full_page=120)  # until one of them has ended
    assert allowance.admits(spent=280, in_flight=0, full_page=120)
    assert not reached
    for _ in range(2):
        with pytest.raises(LimitReached):
            allowance.admits(spent=281, in_flight=0, full_page=120)
    assert reached == [Limit.WEIGHT]
    with pytest.raises(LimitReached):
        allowance.check()


def test_the_first_limit_is_the_reason() -> None:
    allowance = Allowance()
    assert allowance.admits(spent=10**9, in_flight=9, full_page=120)
    allowance.reach(Limit.DURATION)
    allowance.reach(Limit.WEIGHT)
    assert allowance.reached is Limit.DURATION


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2h30m", 9000), ("3d", 259_200), ("1.5h", 5400), ("1d2h3m4s", 93_784), ("1H", 3600)],
)
def test_spans_of_time(text: str, seconds: float) -> None:
    assert parse_span(text, flag="--max-duration") == seconds


@pytest.mark.parametrize("text", ["", "90", "h", "-1h", "30m2h", "0s", "1e3s", "2 h x", "1.h"])
def test_what_is_no_span_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-duration .+ is no span of time"):
        parse_span(text, flag="--max-duration")
