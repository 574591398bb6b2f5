"""The weight limiter against a model of the exchange, in virtual time: no 429, nothing left unused, in order.

One run is judged by every window model at once (`every_window`): as long as none of them
refuses, the client can't tell them apart.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kit.lane_ledger import LaneLedger, WayToLedger
from tests.kit.server_model import (
    FixedWindows,
    Latency,
    ServerModel,
    SlidingWindow,
    TokenBucket,
    TooManyRequests,
    Window,
    every_window,
)
from tests.kit.virtual_time import Stuck, run_virtual
from vigil.claims import GRACE_SECONDS
from vigil.lanes import Lane
from vigil.limiter import (
    BASE_WEIGHT,
    CLOCK_MARGIN,
    FULL_PAGE_WEIGHT,
    OVERSHOOT_WEIGHT,
    SETTLED_PARTS,
    Budget,
    Gate,
    Ticket,
    WeightLimiter,
    page_weight,
)
from vigil.settings import Settings

stable = settings(derandomize=True, deadline=None, database=None, max_examples=100)

AT_ONCE = Latency(0.0)
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0


# -- driving it ------------------------------------------------------------------------------


async def fetch(limiter: WeightLimiter, server: ServerModel, rows: int, latency: Latency, name: object = None) -> None:
    """One request, treated as the client treats it."""
    async with limiter.request() as ticket:
        try:
            ticket.weight = await server.ask(rows, latency, name)
            ticket.answered = True
        except TooManyRequests:
            ticket.weight = BASE_WEIGHT
            limiter.pause(ticket)


async def drive(
    limiter: WeightLimiter,
    server: ServerModel,
    *,
    coroutines: int,
    rows: Iterable[int],
    latencies: Iterable[Latency],
    until: float = math.inf,
) -> None:
    """`coroutines` that fetch one page after the other, until the pages or the time run out."""
    loop, asked = asyncio.get_running_loop(), itertools.count()
    pages = zip(rows, latencies, strict=False)

    async def page_after_page() -> None:
        while loop.time() < until and (page := next(pages, None)):
            await fetch(limiter, server, *page, name=next(asked))

    async with asyncio.TaskGroup() as group:
        for _ in range(coroutines):
            group.create_task(page_after_page())


@dataclass(frozen=True)
class Load:
    budget: int
    period: float
    coroutines: int
    requests: int
    rows: tuple[int, ...]
    latencies: tuple[Latency, ...]
    phases: tuple[float, ...]
    drift: float
    """How much slower the server's clock runs than ours, as a share."""

    @property
    def windows(self) -> list[Window]:
        return every_window(self.budget, self.period * (1 + self.drift), self.phases)

    def pages(self) -> Iterator[int]:
        return itertools.islice(itertools.cycle(self.rows), self.requests)

    async def run(self, limiter: WeightLimiter) -> ServerModel:
        server = ServerModel(self.windows)
        latencies = itertools.cycle(self.latencies)
        await drive(limiter, server, coroutines=self.coroutines, rows=self.pages(), latencies=latencies)
        return server


def _row_patterns() -> st.SearchStrategy[tuple[int, ...]]:
    edges = st.sampled_from([0, 1, 20, 21, 400, 1999, 2000])
    overshoot = st.integers(1, 70).map(lambda empty: (0,) * empty + (2000,))
    lists = [st.lists(rows, min_size=1, max_size=9).map(tuple) for rows in (st.integers(0, 20), edges)]
    return st.one_of(st.just((2000,)), overshoot, *lists, st.lists(st.integers(0, 2000), min_size=1).map(tuple))


_shares = st.floats(0, 1, allow_subnormal=False)
_latencies = st.builds(Latency.split, st.sampled_from([0.0, 0.02, 0.1, 0.25, 0.5, 1.0]), _shares, _shares)
loads = st.builds(
    Load,
    budget=st.sampled_from([1200, 1200, 20, 40, 100, 139, 140, 259, 3000]) | st.integers(20, 1300),
    period=st.sampled_from([60.0, 60.0, 0.05, 0.7, 5.0]),
    coroutines=st.sampled_from([1, 2, 8, 64]) | st.integers(1, 64),
    requests=st.integers(1, 300),
    rows=_row_patterns(),
    latencies=st.lists(_latencies, min_size=1, max_size=7).map(tuple),
    phases=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3).map(tuple),
    drift=st.sampled_from([0.0, 0.9 * CLOCK_MARGIN, -0.9 * CLOCK_MARGIN]),
)


def spread(total: float, seed: int = 1) -> Iterator[Latency]:
    """Round trips of `total` seconds, each split in another way."""
    rng = random.Random(seed)
    while True:
        yield Latency.split(total, rng.random(), rng.random())


# -- no 429, under any model -----------------------------------------------------------------


@stable
@given(loads)
@example(Load(1200, 60.0, 64, 300, (0,) * 59 + (2000,), (AT_ONCE,), (0.5,), 0.0))
@example(Load(20, 0.05, 8, 40, (2000, 0), (Latency(0.0, 0.5), Latency(0.5)), (0.3,), 0.0))
@example(Load(1200, 60.0, 10, 40, (2000,), (Latency(1.0), Latency(0.001)), (0.0,), 0.0))
@example(Load(139, 60.0, 2, 20, (2000,), (Latency(0.0, 0.0, 0.5), Latency(0.1)), (0.0,), 0.0))
def test_the_exchange_never_has_to_answer_429_whatever_its_window_its_latency_and_its_pages(load: Load) -> None:
    limiter = WeightLimiter(load.budget, load.period)
    server = run_virtual(load.run(limiter))
    assert (server.refused, server.answered) == (0, load.requests)
    assert server.least_room >= -1e-6, "an arrival found less than 20 left"
    assert limiter.gate.pauses == 0


@stable
@given(loads)
def test_requests_are_sent_in_the_order_in_which_they_were_asked_for(load: Load) -> None:
    server = run_virtual(load.run(WeightLimiter(load.budget, load.period)))
    assert server.order == list(range(load.requests))


@stable
@given(loads)
def test_what_was_spent_is_what_the_exchange_charged(load: Load) -> None:
    limiter = WeightLimiter(load.budget, load.period)
    server = run_virtual(load.run(limiter))
    assert limiter.weight_spent == sum(weight for _, weight in server.charges)
    assert limiter.budget.in_flight == 0


def test_a_debt_that_a_sliding_window_forgets_and_a_bucket_keeps_is_paid_back() -> None:
    """59 empty pages leave room for one more arrival, a full page: 1300 a minute if only a log is kept."""
    load = Load(1200, 60.0, 8, 600, (0,) * 59 + (2000,), (Latency(0.05),), (0.0,), 0.0)
    server = run_virtual(load.run(WeightLimiter()))
    assert server.refused == 0


def test_a_late_charge_is_still_held_when_the_next_request_travels_faster() -> None:
    """The first ten are charged when their second is over, the next ten arrive at once."""

    async def scenario() -> ServerModel:
        limiter, server = WeightLimiter(), ServerModel(every_window(1200, 60.0))
        slow = itertools.repeat(Latency(1.0), 10)
        await drive(limiter, server, coroutines=10, rows=itertools.repeat(2000), latencies=slow)
        await drive(limiter, server, coroutines=10, rows=itertools.repeat(2000, 10), latencies=spread(0.001))
        return server

    assert run_virtual(scenario()).refused == 0


def test_a_fast_request_that_overtakes_a_slow_one_on_the_way_does_not_take_its_room() -> None:
    load = Load(1200, 60.0, 64, 300, (2000, 0), (Latency(0.5), Latency(0.0, 0.001)), (0.0, 0.5), 0.0)
    server = run_virtual(load.run(WeightLimiter()))
    assert (server.refused, server.answered) == (0, 300)


@stable
@given(st.integers(20, 3000), st.lists(st.tuples(st.integers(20, 120), st.floats(0, 9)), max_size=60))
def test_the_announced_delay_is_enough_and_not_longer_than_needed(
    weight: int, history: list[tuple[int, float]]
) -> None:
    budget, now = Budget(weight, 60.0), 0.0
    for cost, seconds in history:
        now += seconds
        if budget.delay(now) == 0:
            budget.admit()
            budget.settle(now, cost)
    delay = budget.delay(now)
    if delay:
        assert budget.delay(now + delay - 1e-3) > 0
    assert budget.delay(now + delay + 1e-6) == 0


def test_a_page_costs_20_and_one_more_for_every_20_rows_begun() -> None:
    weights = {rows: page_weight(rows) for rows in (0, 1, 20, 21, 1999, 2000)}
    assert weights == {0: 20, 1: 21, 20: 21, 21: 22, 1999: 120, 2000: FULL_PAGE_WEIGHT}


# -- nothing left unused ---------------------------------------------------------------------

PAGES: dict[str, Callable[[random.Random], int]] = {
    "small": lambda rng: rng.randint(1, 20),
    "mixed": lambda rng: int(2000 ** rng.random()),
    "full": lambda rng: 2000,
}


def share_used(pages: str, latency: float, coroutines: int, *, since: int = 12, until: int = 24) -> float:
    """Share of the budget used between two minutes, with round trips of `latency` seconds."""
    rng, server = random.Random(7), ServerModel(every_window(1200, 60.0))
    rows = iter(lambda: PAGES[pages](rng), None)
    limiter = WeightLimiter()
    run = drive(limiter, server, coroutines=coroutines, rows=rows, latencies=spread(latency), until=60.0 * until)
    run_virtual(run)
    assert server.refused == 0
    return server.used(1200, 60.0, 60.0 * since, 60.0 * until)


@pytest.mark.parametrize("latency", [0.0, 0.1, 0.25, 0.4])
@pytest.mark.parametrize("coroutines", [1, 8, 64])
@pytest.mark.parametrize("pages", PAGES)
def test_99_percent_of_the_budget_are_used_at_round_trips_up_to_400_ms(
    pages: str, coroutines: int, latency: float
) -> None:
    assert share_used(pages, latency, coroutines) >= 0.99


@pytest.mark.parametrize("latency", [0.5, 1.0])
@pytest.mark.parametrize("coroutines", [1, 8, 64])
def test_slower_round_trips_cost_no_more_than_the_latency_itself(coroutines: int, latency: float) -> None:
    """57 pages of 21 weight (1197 of 1200), each slot used again a period and a round trip later: the bound."""
    bound = 57 * 21 / 1200 * 60 / (60 * (1 + CLOCK_MARGIN) + latency)
    assert share_used("small", latency, coroutines) >= bound - 0.001


@pytest.mark.parametrize("latency", [0.1, 0.25, 0.5])
def test_spreading_the_first_wave_costs_once_less_than_a_round_trip_for_each_of_its_requests(latency: float) -> None:
    """Small pages sent side by side reserve 120 each; they end up one behind the other, and stay so."""
    lost = (1 - share_used("small", latency, 8, since=0, until=12)) * 11 * 60
    steady = (1 - share_used("small", latency, 8)) * 11 * 60
    assert lost - steady < 57 * latency


@pytest.mark.parametrize("period", [0.05, 5.0, 60.0])
@pytest.mark.parametrize("budget", [20, 100, 140, 300])
def test_small_budgets_and_short_periods_are_used_as_fully(budget: int, period: float) -> None:
    server, limiter = ServerModel(every_window(budget, period)), WeightLimiter(budget, period)
    full, latencies = itertools.repeat(2000), spread(period / 1000)
    run_virtual(drive(limiter, server, coroutines=8, rows=full, latencies=latencies, until=200 * period))
    assert server.refused == 0
    assert server.used(budget, period, 20 * period, 200 * period) >= 0.985  # the edges cut whole pages


# -- in order --------------------------------------------------------------------------------


def test_a_heavy_request_is_not_starved_by_light_ones() -> None:
    """63 coroutines ask for near-empty pages without end; one asks for full ones and gets its turn."""

    async def scenario() -> list[float]:
        limiter, server = WeightLimiter(), ServerModel(every_window(1200, 60.0))
        light = drive(limiter, server, coroutines=63, rows=itertools.repeat(1), latencies=spread(0.1), until=600.0)
        lights = asyncio.create_task(light)
        waits = []
        for _ in range(5):
            asked = asyncio.get_running_loop().time()
            await fetch(limiter, server, 2000, Latency(0.1))
            waits.append(asyncio.get_running_loop().time() - asked)
        await lights
        return waits

    waits = run_virtual(scenario())
    assert max(waits) <= 64 * 21 / 1200 * 60 + 60  # everyone before it, once, and the period's own wait


def test_whoever_asks_while_others_wait_is_not_let_in_first_even_if_there_is_room() -> None:
    async def scenario() -> list[object]:
        limiter, server = WeightLimiter(20, 60.0), ServerModel([SlidingWindow(20, 60.0)])
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(fetch(limiter, server, 0, AT_ONCE, name))
            await asyncio.sleep(60.0 * (1 + CLOCK_MARGIN))  # room is there this very instant
            group.create_task(fetch(limiter, server, 0, AT_ONCE, "late"))
        return server.order

    assert run_virtual(scenario()) == ["a", "b", "c", "late"]


# -- cancelling and failing ------------------------------------------------------------------


@stable
@given(
    st.sampled_from([20, 140, 1200]),
    st.lists(st.tuples(st.sampled_from([0, 20, 2000]), st.floats(0, 90) | st.none()), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.3, 4.0]),
)
def test_cancelling_at_any_moment_leaks_no_budget_and_leaves_the_order_of_the_others(
    budget: int, plan: list[tuple[int, float | None]], back: float
) -> None:
    """Each request has its rows and the second in which it is cancelled, waiting or in flight, or never is."""

    async def scenario() -> tuple[ServerModel, WeightLimiter, float]:
        limiter, server = WeightLimiter(budget, 60.0), ServerModel(every_window(budget, 60.0))
        loop = asyncio.get_running_loop()
        tasks = []
        for name, (rows, cancelled_after) in enumerate(plan):
            # charged as soon as sent: what a server does after the client left has its own test
            tasks.append(asyncio.create_task(fetch(limiter, server, rows, Latency(0, 0, back), name)))
            if cancelled_after is not None:
                loop.call_later(cancelled_after, tasks[-1].cancel)
        await asyncio.wait(tasks)
        await asyncio.sleep(60.0 * (2 + FULL_PAGE_WEIGHT / budget))
        before = loop.time()
        await fetch(limiter, server, 0, AT_ONCE, len(plan))
        return server, limiter, loop.time() - before

    server, limiter, wait = run_virtual(scenario())
    names = [name for name in server.order if isinstance(name, int)]
    assert names == sorted(names)
    assert {name for name, (_, after) in enumerate(plan) if after is None} <= set(names)
    assert (server.refused, limiter.budget.in_flight) == (0, 0)
    assert wait < 0.001


def test_cancelling_a_waiter_costs_nothing_and_lets_the_next_one_in() -> None:
    async def scenario() -> tuple[list[object], int]:
        limiter, server = WeightLimiter(20, 60.0), ServerModel([SlidingWindow(20, 60.0)])
        tasks = [asyncio.create_task(fetch(limiter, server, 0, AT_ONCE, name)) for name in "abcde"]
        await asyncio.sleep(1.0)
        for task in (tasks[1], tasks[3]):  # the first of the queue, which waits for budget, and one behind
            task.cancel()
        await asyncio.wait(tasks)
        return server.order, limiter.weight_spent

    assert run_virtual(scenario()) == (["a", "c", "e"], 60)


def test_a_request_cancelled_in_flight_counts_as_the_heaviest() -> None:
    async def scenario() -> tuple[int, int]:
        limiter, server = WeightLimiter(), ServerModel([SlidingWindow(1200, 60.0)])
        task = asyncio.create_task(fetch(limiter, server, 0, Latency(1.0)))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        return limiter.budget.in_flight, limiter.budget.used(0.5)

    assert run_virtual(scenario()) == (0, FULL_PAGE_WEIGHT)


def test_a_request_cancelled_in_flight_may_be_charged_after_it_was_cancelled() -> None:
    """The server has not heard of the cancellation: ten requests reach it a second after they were given up."""

    async def scenario() -> ServerModel:
        limiter, server = WeightLimiter(), ServerModel([SlidingWindow(1200, 60.0)])
        tasks = [asyncio.create_task(fetch(limiter, server, 2000, Latency(1.0))) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await drive(limiter, server, coroutines=10, rows=itertools.repeat(2000, 10), latencies=spread(0.0))
        return server

    assert run_virtual(scenario()).refused == 0


def test_a_body_that_raises_is_charged_the_worst_case() -> None:
    async def scenario() -> WeightLimiter:
        limiter = WeightLimiter()
        with pytest.raises(ValueError, match="cut body"):
            async with limiter.request():
                raise ValueError("cut body")
        return limiter

    limiter = run_virtual(scenario())
    assert (limiter.budget.in_flight, limiter.budget.used(0.0)) == (0, FULL_PAGE_WEIGHT)


def test_requests_that_never_arrived_cost_nothing_however_many_fail() -> None:
    async def scenario() -> tuple[float, WeightLimiter]:
        limiter = WeightLimiter()
        for _ in range(500):
            async with limiter.request() as ticket:
                ticket.weight = 0
        return asyncio.get_running_loop().time(), limiter

    took, limiter = run_virtual(scenario())
    assert took < 0.1
    assert (limiter.weight_spent, limiter.budget.used(took)) == (0, 0)


# -- the gate --------------------------------------------------------------------------------


class Doors:
    """Requests that end when told, all of one limiter, which records when each was admitted."""

    def __init__(self, *, seed: int = 1, requests_per_period: float | None = None) -> None:
        self.limiter = WeightLimiter(requests_per_period=requests_per_period)
        # its own pauses, so that these claims hold whatever the limiter is tuned to
        rng = random.Random(seed)
        self.limiter.gate = Gate(first_seconds=FIRST_PAUSE, longest_seconds=LONGEST_PAUSE, rng=rng)
        self.admitted_at: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def visit(self, seconds: float, outcome: Callable[[WeightLimiter, Ticket], object]) -> None:
        async with self.limiter.request() as ticket:
            self.admitted_at.append(asyncio.get_running_loop().time())
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                await asyncio.sleep(seconds)
                ticket.weight = 0
                outcome(self.limiter, ticket)
            finally:
                self.in_flight -= 1


def served(limiter: WeightLimiter, ticket: Ticket) -> None:
    ticket.answered = True


def error_page(limiter: WeightLimiter, ticket: Ticket) -> None:
    """Neither a page nor a 429."""


def throttled(retry_after: float | None = None) -> Callable[[WeightLimiter, Ticket], object]:
    return lambda limiter, ticket: limiter.pause(ticket, retry_after)


async def side_by_side(doors: Doors, *visits: tuple[float, Callable[[WeightLimiter, Ticket], object]]) -> None:
    async with asyncio.TaskGroup() as group:
        for seconds, outcome in visits:
            group.create_task(doors.visit(seconds, outcome))


def test_a_429_stops_every_coroutine_once_and_later_ones_of_the_same_wave_do_not_extend_the_pause() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await side_by_side(doors, *[(0.1 + 0.3 * late, throttled()) for late in range(8)])
        await side_by_side(doors, (0.1, served))
        return doors

    doors = run_virtual(scenario())
    assert doors.limiter.gate.pauses == 1
    assert FIRST_PAUSE <= doors.admitted_at[8] - 0.1 <= 1.5 * FIRST_PAUSE + 0.001


def test_the_429_of_a_straggler_does_not_close_the_gate_that_a_probe_has_opened() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await side_by_side(doors, (0.1, throttled()), (20.0, throttled(100.0)), *[(0.1, served)] * 30)
        return doors

    doors = run_virtual(scenario())
    assert doors.limiter.gate.pauses == 1
    assert doors.limiter.gate.is_open
    assert doors.admitted_at[-1] < 10.0


def test_the_answer_of_a_straggler_does_not_open_a_gate_closed_after_it_was_sent() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await side_by_side(doors, (0.1, throttled()), (0.5, served), *[(0.1, served)] * 10)
        return doors

    # nine are in flight before the 429; the tenth and later ones wait
    doors = run_virtual(scenario())
    assert sum(time < FIRST_PAUSE for time in doors.admitted_at) == 10
    assert min(time for time in doors.admitted_at if time > 0.2) >= 0.1 + FIRST_PAUSE


@pytest.mark.parametrize(("retry_after", "at_least"), [(42.0, 42.0), (1.0, FIRST_PAUSE), (300.0, 300.0)])
def test_retry_after_is_honoured_and_a_short_one_does_not_shorten_the_pause(
    retry_after: float, at_least: float
) -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await side_by_side(doors, (0.0, throttled(retry_after)))
        await side_by_side(doors, (0.0, served))
        return doors

    admitted = run_virtual(scenario()).admitted_at[1]
    assert at_least <= admitted <= max(retry_after, 1.5 * FIRST_PAUSE) + 0.001


@pytest.mark.parametrize("longest", [0.5, 60.0])
def test_the_first_pause_is_a_small_part_of_the_period_and_within_the_longest(longest: float) -> None:
    async def scenario() -> float:
        limiter = WeightLimiter(longest_pause_seconds=longest)
        async with limiter.request() as ticket:
            limiter.pause(ticket)
        return limiter.gate.delay(asyncio.get_running_loop().time())

    assert 0.4 < run_virtual(scenario()) <= min(1.5 * longest, 60.0 / 6)


def _pauses(seed: int, *, failures: int = 7) -> list[float]:
    async def scenario() -> Doors:
        doors = Doors(seed=seed)
        for _ in range(failures):
            await doors.visit(0.0, throttled())
        await doors.visit(0.0, served)
        return doors

    return [later - earlier for earlier, later in pairwise(run_virtual(scenario()).admitted_at)]


@pytest.mark.parametrize("seed", range(5))
def test_each_failing_probe_doubles_the_pause_up_to_the_longest(seed: int) -> None:
    for pause, expected in zip(_pauses(seed), [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0], strict=True):
        assert expected <= pause <= 1.5 * expected + 0.001


def test_workers_that_were_stopped_together_do_not_come_back_together() -> None:
    returns = sorted(_pauses(seed, failures=1)[0] for seed in range(20))
    assert returns[-1] - returns[0] > 1.0
    assert len(set(returns)) == 20


def test_after_an_answer_the_pauses_begin_anew() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        for outcome in (throttled(), throttled(), served, throttled(), served):
            await doors.visit(0.0, outcome)
        return doors

    times = run_virtual(scenario()).admitted_at
    assert FIRST_PAUSE <= times[4] - times[3] <= 1.5 * FIRST_PAUSE + 0.001


def test_after_a_pause_one_request_goes_first_and_the_others_follow_its_answer() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await doors.visit(0.0, throttled())
        doors.most_in_flight = 0
        await side_by_side(doors, (3.0, served), *[(1.0, served)] * 5)
        return doors

    _, probe, *others = run_virtual(scenario()).admitted_at
    assert all(probe + 3.0 <= time <= probe + 3.001 for time in others)


def test_a_failing_probe_closes_the_gate_again_and_only_one_request_has_paid_for_it() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await doors.visit(0.0, throttled())
        await side_by_side(doors, (0.5, throttled()), *[(0.5, served)] * 5)
        return doors

    doors = run_virtual(scenario())
    _, probe, second_probe, *_ = doors.admitted_at
    assert doors.limiter.gate.pauses == 2
    assert second_probe - (probe + 0.5) >= 2 * FIRST_PAUSE


def test_a_cancelled_probe_does_not_leave_the_gate_stuck() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await doors.visit(0.0, throttled())
        probe = asyncio.create_task(doors.visit(1000.0, served))
        waiting = [asyncio.create_task(doors.visit(1.0, served)) for _ in range(3)]
        await asyncio.sleep(30.0)
        probe.cancel()
        await asyncio.wait([probe, *waiting])
        return doors

    doors = run_virtual(scenario())
    assert [round(time) for time in doors.admitted_at[2:]] == [30, 31, 31]
    assert doors.limiter.gate.is_open


def test_a_waiter_cancelled_at_the_closed_gate_lets_the_next_one_probe() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await doors.visit(0.0, throttled())
        first, second = (asyncio.create_task(doors.visit(1.0, served)) for _ in range(2))
        await asyncio.sleep(1.0)
        first.cancel()
        await asyncio.wait([first, second])
        return doors

    doors = run_virtual(scenario())
    assert len(doors.admitted_at) == 2
    assert doors.limiter.gate.is_open


def test_a_probe_that_meets_an_error_page_leaves_the_gate_to_the_next_probe() -> None:
    async def scenario() -> Doors:
        doors = Doors()
        await doors.visit(0.0, throttled())
        doors.most_in_flight = 0
        await side_by_side(doors, (1.0, error_page), (1.0, error_page), (1.0, error_page), (1.0, served))
        return doors

    doors = run_virtual(scenario())
    assert doors.most_in_flight == 1
    assert doors.limiter.gate.is_open
    assert doors.limiter.gate.pauses == 1


# -- the original plan's cap on requests -----------------------------------------------------


def test_requests_per_period_are_evenly_spaced() -> None:
    async def scenario() -> ServerModel:
        limiter, server = WeightLimiter(requests_per_period=40), ServerModel(every_window(1200, 60.0))
        await drive(limiter, server, coroutines=8, rows=itertools.repeat(0, 100), latencies=itertools.repeat(AT_ONCE))
        return server

    arrivals = [time for time, _ in run_virtual(scenario()).charges]
    assert all(1.5 - 1e-6 <= later - earlier <= 1.501 for earlier, later in pairwise(arrivals))


def test_requests_per_period_come_on_top_of_the_weight() -> None:
    """40 full pages a minute would be 4800 weight."""

    async def scenario() -> ServerModel:
        limiter, server = WeightLimiter(requests_per_period=40), ServerModel(every_window(1200, 60.0))
        await drive(limiter, server, coroutines=8, rows=itertools.repeat(2000, 100), latencies=spread(0.2))
        return server

    server = run_virtual(scenario())
    assert (server.refused, server.answered) == (0, 100)


def test_requests_stay_evenly_spaced_after_a_wait_for_gate_or_budget() -> None:
    async def scenario() -> list[float]:
        doors = Doors(requests_per_period=40)
        await doors.visit(0.0, throttled(30.0))
        await side_by_side(doors, *[(0.0, served)] * 4)
        return doors.admitted_at

    assert all(later - earlier >= 1.5 - 1e-6 for earlier, later in pairwise(run_virtual(scenario())))


# -- the judge and the clock -----------------------------------------------------------------


@pytest.mark.parametrize("window", [SlidingWindow(1200, 60.0), FixedWindows(1200, 60.0, 0.4), TokenBucket(1200, 60.0)])
def test_every_window_model_refuses_a_client_that_asks_too_much(window: Window) -> None:
    async def scenario() -> ServerModel:
        server = ServerModel([window])
        for _ in range(61):
            try:
                await server.ask(0, AT_ONCE)
            except TooManyRequests:
                break
        return server

    server = run_virtual(scenario())
    assert (server.answered, server.refused) == (60, 1)


def test_the_window_models_differ_in_what_they_forget() -> None:
    windows: list[Window] = [SlidingWindow(100, 60.0), FixedWindows(100, 60.0, 0.5), TokenBucket(100, 60.0)]
    for window in windows:
        window.charge(20.0, 220)
    assert [window.room(29.0) for window in windows] == [-120, -120, pytest.approx(-105)]
    assert [window.room(31.0) for window in windows] == [-120, 100, pytest.approx(-101.666666)]
    assert [window.room(81.0) for window in windows] == [100, 100, pytest.approx(-18.333333)]


def test_the_server_goes_on_and_charges_when_its_client_has_gone() -> None:
    async def scenario() -> ServerModel:
        server = ServerModel([SlidingWindow(1200, 60.0)])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.ask(2000, Latency(1.0, 1.0, 1.0)), 0.5)
        await asyncio.sleep(5.0)
        return server

    assert [weight for _, weight in run_virtual(scenario()).charges] == [20, 100]


def test_an_hour_of_virtual_time_passes_at_once_and_in_order() -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []

        async def mark(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append(name)

        await asyncio.gather(mark(3600.0, "last"), mark(1.0, "first"), mark(1800.0, "second"))
        return seen

    assert run_virtual(scenario()) == ["first", "second", "last"]


def test_the_virtual_clock_does_not_spin_on_a_wait_shorter_than_a_float_can_add() -> None:
    async def scenario() -> float:
        pace = AsyncLimiter(1, 60 / 7)
        for _ in range(200):
            await pace.acquire()
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == pytest.approx(199 * 60 / 7, abs=0.01)


def test_a_task_left_running_fails_the_run() -> None:
    async def scenario() -> None:
        scenario.kept = asyncio.create_task(asyncio.sleep(9), name="forgotten")  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match="tasks left running: forgotten"):
        run_virtual(scenario())


def test_a_run_in_which_nothing_can_happen_any_more_says_who_waits() -> None:
    async def scenario() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match=r"nothing ready, no timer\. Waiting: .*scenario \(test_limiter\.py:\d+\) > wait"):
        run_virtual(scenario())


# -- one address, several workers ------------------------------------------------------------

BURIED_AFTER = GRACE_SECONDS
"""From a worker's death, or the loss of its database, to its burial; a round trip takes a third of it at most."""


@dataclass(frozen=True)
class Act:
    """So many seconds after the act before, worker number `who` of the lane does this."""

    pause: float
    who: int
    what: str


@dataclass(frozen=True)
class Shared:
    budget: int
    coroutines: int
    rows: tuple[int, ...]
    latencies: tuple[Latency, ...]
    acts: tuple[Act, ...]
    phase: float
    way: float
    """Seconds to the database, and as many back."""


class Address:
    """Workers of one lane: the real `Lane` and `WeightLimiter` of each, one ledger, one strict exchange."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.server = ServerModel(every_window(shared.budget, 60.0, (0.0, shared.phase)))
        self.ledger = LaneLedger()
        self.most_claimed = 0
        self._settings = Settings(_env_file=None, weight_per_minute=shared.budget)  # type: ignore[call-arg]
        self._rows, self._latencies = itertools.cycle(shared.rows), itertools.cycle(shared.latencies)
        self._numbers = itertools.count(1)
        self._workers: dict[int, Member] = {}
        self._cut_off: list[Member] = []

    async def run(self) -> None:
        for act in self._shared.acts:
            await self._watch(act.pause)
            await self._perform(act.who, act.what)
        await self._watch(90.0)
        for worker in (*self._workers.values(), *self._cut_off):
            await worker.end()

    async def _watch(self, seconds: float) -> None:
        """Let time pass, with an eye on the ledger."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(min(0.37, until - loop.time() + 1e-3))
            self.most_claimed = max(self.most_claimed, self.ledger.claimed(loop.time()))

    async def _perform(self, who: int, what: str) -> None:
        worker = self._workers.get(who)
        if worker is None:
            number = next(self._numbers)
            self.ledger.join(number)
            self._workers[who] = Member(number, WayToLedger(self.ledger, self._shared.way), self)
        elif what == "rest":
            worker.turn()
        else:
            del self._workers[who]
            if what == "cut":  # from the database, not from the exchange
                worker.link.cut()
                self._cut_off.append(worker)
            else:
                await worker.end()
            if what == "leave":
                await worker.lane.leave()
            else:
                await self._watch(BURIED_AFTER)
            self.ledger.bury(asyncio.get_running_loop().time(), worker.number)

    async def fetch(self, limiter: WeightLimiter) -> None:
        await fetch(limiter, self.server, next(self._rows), next(self._latencies))

    def member(self, number: int, link: WayToLedger) -> tuple[WeightLimiter, Lane]:
        limiter = WeightLimiter(self._shared.budget, 60.0)
        limiter.resize(0)
        return limiter, Lane(link.as_link, self._settings, number, limiter)

    @property
    def coroutines(self) -> int:
        return self._shared.coroutines


class Member:
    """One worker of an address: fetches unless it rests, and keeps its lane."""

    def __init__(self, number: int, link: WayToLedger, address: Address) -> None:
        self.number, self.link = number, link
        self.limiter, self.lane = address.member(number, link)
        self._address = address
        self._wants = asyncio.Event()
        self._wants.set()
        self._tasks = [asyncio.create_task(self._page()) for _ in range(address.coroutines)]
        self._tasks.append(asyncio.create_task(self._keep()))

    def turn(self) -> None:
        """From work to rest or back."""
        if self._wants.is_set():
            self._wants.clear()
        else:
            self._wants.set()

    async def end(self) -> None:
        """As `kill -9`: requests in flight are charged all the same, and nothing is told."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _keep(self) -> None:
        await self.lane.agree()
        await self.lane.keep()

    async def _page(self) -> None:
        while True:
            await self._wants.wait()
            await self._address.fetch(self.limiter)


_acts = st.builds(
    Act,
    pause=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0, 56.0, 60.0]) | st.floats(0, 90),
    who=st.integers(0, 3),
    what=st.sampled_from(["rest", "rest", "leave", "die", "cut"]),
)
shared_loads = st.builds(
    Shared,
    budget=st.sampled_from([1200, 1200, 400, 140]),
    coroutines=st.sampled_from([1, 3, 12]),
    rows=_row_patterns(),
    latencies=st.lists(_latencies, min_size=1, max_size=4).map(tuple),
    acts=st.lists(_acts, min_size=1, max_size=14).map(tuple),
    phase=st.floats(0, 1, exclude_max=True),
    way=st.sampled_from([0.0, 0.004, 0.3]),
)
EMPTY_THEN_FULL = (0,) * 59 + (2000,)


def scene(*acts: tuple[float, int, str], rows: tuple[int, ...] = EMPTY_THEN_FULL) -> Shared:
    return Shared(1200, 12, rows, (AT_ONCE,), tuple(Act(*act) for act in acts), 0.5, 0.0)


def quick_scene(*acts: tuple[float, int, str], rows: tuple[int, ...] = EMPTY_THEN_FULL) -> Shared:
    """One request after the other, a hundred a second."""
    return Shared(1200, 1, rows, (Latency(0.01),), tuple(Act(*act) for act in acts), 0.5, 0.0)


DIES_WITH_AN_OVERSHOOT_UNTOLD = quick_scene(
    (0, 0, "join"), (0.295, 0, "rest"), (49.8, 0, "rest"), (0.4, 0, "die"), (0, 0, "join")
)
BOTH_REST_AND_WAKE_AT_ONCE = quick_scene(
    (0, 0, "join"),
    (0.148, 0, "rest"),
    (5.052, 1, "join"),
    (0, 1, "rest"),
    (95.05, 0, "rest"),
    (0, 1, "rest"),
    rows=(*(0,) * 15, *(0,) * 28, 2000, *(0,) * 30, 2000),
)


@settings(stable, max_examples=60)
@given(shared_loads)
@example(scene((0, 0, "join"), (1.5, 0, "die"), (0, 0, "join")))  # a bucket's debt outlives its debtor
@example(scene((0, 0, "join"), (30, 0, "die"), (0, 0, "join"), (61, 0, "die"), (0, 0, "join")))
@example(DIES_WITH_AN_OVERSHOOT_UNTOLD)
@example(BOTH_REST_AND_WAKE_AT_ONCE)
@example(scene((0, 0, "join"), (100, 0, "cut"), (0, 1, "join"), rows=(2000,)))
@example(scene((0, 0, "join"), (0, 1, "join"), (0, 2, "join"), (0, 3, "join"), (99, 0, "die"), (1, 1, "leave")))
def test_workers_that_share_an_address_are_never_answered_429_whoever_joins_dies_or_rests(shared: Shared) -> None:
    address = Address(shared)
    run_virtual(address.run())
    assert address.server.refused == 0
    assert address.server.least_room >= -1e-6
    assert address.most_claimed <= shared.budget + OVERSHOOT_WEIGHT


def test_a_lane_is_used_by_two_as_by_one_but_for_the_overshoot_that_only_one_may_have() -> None:
    """Two that always want weight, and then one: nothing lies idle for long."""
    address = Address(
        Shared(1200, 8, (2000,), (Latency(0.1),), (Act(0, 0, ""), Act(0, 1, ""), Act(900, 1, "leave")), 0.5, 0.004)
    )

    async def scenario() -> None:
        await address.run()

    run_virtual(scenario())
    assert address.server.refused == 0
    assert address.server.used(1200, 60.0, 120.0, 900.0) >= 1100 / 1200 * 0.97


def test_a_newcomer_has_its_share_when_the_others_weight_has_left_the_books() -> None:
    """One spends its whole minute at once; the other comes a second later, and gets nothing for 59, then its half."""

    async def scenario() -> list[tuple[float, int]]:
        address, shares = Address(scene(rows=(0,))), []
        await address._perform(0, "join")
        await address._watch(1.0)
        await address._perform(1, "join")
        newcomer = address._workers[1]
        for _ in range(70):
            await address._watch(1.0)
            shares.append((asyncio.get_running_loop().time(), newcomer.limiter.budget.weight_per_period))
        for worker in address._workers.values():
            await worker.end()
        return shares

    shares = run_virtual(scenario())
    assert {share for time, share in shares if time < 59.9} == {0}
    assert {share for time, share in shares if time > 62.5} == {550}


# -- the budget that is told and resized -----------------------------------------------------

_spending = st.lists(st.tuples(st.integers(0, 2000) | st.none(), st.floats(0, 20)), max_size=40)


def spent_budget(spending: list[tuple[int | None, float]]) -> tuple[Budget, float]:
    """A budget after requests of so many rows (None: given up), one every so many seconds, and the time it is then."""
    budget, now = Budget(10_000, 60.0), 0.0
    for rows, seconds in spending:
        now += seconds
        budget.admit()
        budget.settle(now, None if rows is None else page_weight(rows))
    return budget, now


@stable
@given(_spending, st.floats(0, 30))
def test_what_is_told_as_settled_is_all_of_it_and_never_leaves_earlier_than_it_does(
    spending: list[tuple[int | None, float]], later: float
) -> None:
    budget, now = spent_budget(spending)
    now += later
    told = budget.settled(now)
    assert sum(weight for weight, _ in told) == budget.used(now) == budget.claimed(now)
    for moment in [0.0, 0.3, *(left - 1e-6 for _, left in told), *(left + 1e-6 for _, left in told)]:
        still_told = sum(weight for weight, left in told if left > moment)
        assert still_told >= budget.used(now + moment)
    for moment in [left for _, left in told]:  # and by no more than one part later
        still_told = sum(weight for weight, left in told if left > moment + 1e-6)
        assert still_told <= Budget.used(spent_budget(spending)[0], now + moment - 60.0 / SETTLED_PARTS - 1e-3)


@stable
@given(_spending)
def test_a_report_has_few_parts_however_many_requests_there_were(spending: list[tuple[int | None, float]]) -> None:
    budget, now = spent_budget([(rows, seconds / 20) for rows, seconds in spending * 20])
    given_up = any(rows is None for rows, _ in spending)
    assert len(budget.settled(now)) <= (2 if given_up else 1) * (SETTLED_PARTS + 1)


def test_requests_in_flight_are_claimed_at_their_worst_and_not_told_as_settled() -> None:
    budget = Budget(1200, 60.0)
    for _ in range(3):
        budget.admit()
    budget.settle(1.0, 20)
    assert budget.claimed(1.0) == 20 + 2 * FULL_PAGE_WEIGHT
    assert sum(weight for weight, _ in budget.settled(1.0)) == 20


@stable
@given(
    st.lists(st.tuples(st.floats(0, 70), st.integers(0, 1200)), min_size=1, max_size=30),
    st.integers(0, 1200),
    st.sampled_from([20, 120]),
)
def test_resizing_down_and_up_again_creates_no_weight(
    sizes: list[tuple[float, int]], settled_size: int, weight: int
) -> None:
    """What it admits, a budget that had the largest size all the time would have admitted too."""
    largest = max(settled_size, *(size for _, size in sizes))
    resized, steady, now = Budget(settled_size, 60.0), Budget(largest, 60.0), 0.0
    for seconds, size in [*sizes, (0.0, largest)]:
        now += seconds
        resized.resize(now, size)
        while resized.delay(now) == 0:
            assert steady.delay(now) == 0
            for budget in (resized, steady):
                budget.admit()
                budget.settle(now, weight)


@pytest.mark.parametrize("share", [0, 19])
def test_a_share_too_small_for_a_request_lets_nobody_in_until_it_grows(share: int) -> None:
    async def scenario() -> tuple[bool, float]:
        limiter, server = WeightLimiter(), ServerModel([SlidingWindow(1200, 60.0)])
        limiter.resize(share)
        asked = asyncio.create_task(fetch(limiter, server, 0, AT_ONCE))
        await asyncio.sleep(3600.0)
        waited = not asked.done()
        limiter.resize(20)
        await asked
        return waited, asyncio.get_running_loop().time()

    waited, answered_at = run_virtual(scenario())
    assert waited
    assert answered_at < 3600.0 + 61.0


def test_a_debt_taken_over_is_paid_before_anything_is_spent() -> None:
    budget = Budget(100, 50.0)
    budget.owe(120)
    assert budget.delay(0.0) == pytest.approx(20.0, rel=1e-3)
