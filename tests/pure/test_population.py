"""The simulated population: deterministic, lazy, and right in the ways that matter to a backfill."""

from __future__ import annotations

import re
import time
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from vigil.simulator.addresses import AddressBook
from vigil.simulator.coins import number_text, position_text
from vigil.simulator.exchange import Exchange
from vigil.simulator.life import OLD_ROWS_END_MS, WINDOW_END_MS
from vigil.simulator.population import Population
from vigil.simulator.weights import ARRIVAL_WEIGHT, WeightMeter, WindowModel, answer_weight

NOW_MS = 1_793_491_200_000
WIRE_TYPES: dict[str, type] = {
    "coin": str, "px": str, "sz": str, "side": str, "time": int, "startPosition": str, "dir": str,
    "closedPnl": str, "hash": str, "oid": int, "crossed": bool, "fee": str, "tid": int, "feeToken": str,
}  # fmt: skip
OLD_ROWS_LACK = {"tid", "feeToken", "twapId"}
NUMBER = re.compile(r"-?\d+\.\d{1,10}")


@pytest.fixture(scope="module")
def histories() -> list[list[dict[str, Any]]]:
    population = Population(24, seed=3, lengths={**dict.fromkeys(range(24), 700), 5: 4_500})
    return [population.fills(index) for index in range(24)]


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["time"], row["coin"], row["oid"], row.get("tid"), row["side"]


def is_perp(row: dict[str, Any]) -> bool:
    return not row["coin"].startswith(("@", "#")) and "/" not in row["coin"]


# -- addresses -------------------------------------------------------------------------------


def test_an_address_leads_back_to_its_index_without_holding_any() -> None:
    book = AddressBook(seed=9, size=10_000_000)
    sample = [0, 1, 2, 77, 4_999_999, 9_999_999]
    addresses = [book.address(index) for index in sample]
    assert [book.index(address) for address in addresses] == sample
    assert all(re.fullmatch(r"0x[0-9a-f]{40}", address) for address in addresses)


def test_addresses_of_many_users_are_all_different_and_look_unordered() -> None:
    book = AddressBook(seed=1, size=20_000)
    addresses = [book.address(index) for index in range(20_000)]
    assert len(set(addresses)) == 20_000
    assert addresses[:50] != sorted(addresses[:50])


def test_a_strange_address_has_no_index_even_with_a_known_tail() -> None:
    book = AddressBook(seed=1, size=10)
    known = book.address(3)
    assert book.index("0x" + "ab" * 20) is None
    assert book.index("0x" + "0" * 28 + known[-12:]) is None
    assert book.index(AddressBook(seed=1, size=11).address(10)) is None  # beyond the size
    assert book.index(AddressBook(seed=2, size=10).address(3)) is None  # of another seed


def test_ten_million_users_cost_nothing_until_asked() -> None:
    started = time.process_time()
    population = Population(10_000_000, seed=4, lengths={9_999_999: 30})
    assert len(population.fills(9_999_999)) == 30
    assert time.process_time() - started < 0.5


# -- histories -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_history_whatever_was_asked_before() -> None:
    one, other = Population(50, seed=6), Population(50, seed=6)
    for index in range(20):
        one.fills(index)
    assert one.fills(33) == other.fills(33)
    assert one.fills(2) == other.fills(2)
    assert [Population(50, seed=7).fills(index) for index in range(9)] != [one.fills(i) for i in range(9)]


def test_a_history_has_the_length_that_was_promised() -> None:
    population = Population(300, seed=2, scale=0.3, lengths={4: 0, 5: 1, 6: 2_345})
    assert [len(population.fills(index)) for index in range(300)] == [population.length(index) for index in range(300)]
    assert [population.length(index) for index in (4, 5, 6)] == [0, 1, 2_345]


def test_lengths_follow_the_population_s_classes() -> None:
    population = Population(4_000, seed=8)
    lengths = [population.length(index) for index in range(4_000)]

    def share(low: int, high: int) -> float:
        return sum(low <= length <= high for length in lengths) / 4_000

    assert share(0, 0) == pytest.approx(0.15, abs=0.03)
    assert share(1, 50) == pytest.approx(0.55, abs=0.03)
    assert share(3_001, 14_000) == pytest.approx(0.02, abs=0.01)
    assert max(lengths) > 10_000  # some are longer than retention
    assert population.length(0) * 2 == pytest.approx(Population(1, seed=8, scale=2.0).length(0), abs=2)


def test_every_row_has_the_wire_s_keys_and_types(histories: list[list[dict[str, Any]]]) -> None:
    for row in (row for rows in histories for row in rows):
        missing = (WIRE_TYPES.keys() | {"twapId"}) - row.keys()
        assert not missing or (missing == OLD_ROWS_LACK and row["time"] < OLD_ROWS_END_MS)
        assert all(type(row[key]) is kind for key, kind in WIRE_TYPES.items() if key in row)
        assert row.get("twapId") is None
        assert row["side"] in "AB"
        assert re.fullmatch(r"0x[0-9a-f]{64}", row["hash"])
        assert 0 <= row.get("tid", 0) < 2**50
        for key in ("px", "sz", "startPosition", "closedPnl", "fee"):
            assert NUMBER.fullmatch(row[key]), (key, row[key])


def test_times_ascend_and_span_both_sides_of_the_window_s_end(histories: list[list[dict[str, Any]]]) -> None:
    for rows in histories:
        assert all(before["time"] <= after["time"] for before, after in pairwise(rows))
    early = [sum(row["time"] < WINDOW_END_MS for row in rows) / len(rows) for rows in histories]
    assert any(share < 1 for share in early)
    assert sum(share > 0.5 for share in early) > len(early) / 2


def test_perp_positions_form_an_unbroken_chain(histories: list[list[dict[str, Any]]]) -> None:
    links = 0
    for rows in histories:
        position: dict[str, Decimal] = {}
        for row in filter(is_perp, rows):
            start = Decimal(row["startPosition"])
            assert abs(position.get(row["coin"], Decimal(0)) - start) < Decimal("1e-6"), row
            position[row["coin"]] = start + Decimal(row["sz"]) * (1 if row["side"] == "B" else -1)
            links += 1
    assert links > 8_000


def test_dir_and_pnl_agree_with_the_position(histories: list[list[dict[str, Any]]]) -> None:
    seen: Counter[str] = Counter()
    for row in (row for rows in histories for row in filter(is_perp, rows)):
        seen[row["dir"]] += 1
        start, size = Decimal(row["startPosition"]), Decimal(row["sz"])
        end = start + (size if row["side"] == "B" else -size)
        if row["dir"] == "Long > Short":
            assert start > 0 > end
        elif row["dir"] == "Open Short":
            assert end < start <= 0
            assert row["closedPnl"] == "0.0"
        elif row["dir"] in ("Close Long", "Liquidated Cross Long"):
            assert 0 <= end < start or abs(end) < Decimal("1e-6")
    assert {"Open Long", "Open Short", "Close Long", "Close Short", "Long > Short", "Short > Long"} <= set(seen)


def test_closed_pnl_is_measured_from_the_average_entry(histories: list[list[dict[str, Any]]]) -> None:
    flips = 0
    for rows in histories:
        entry: dict[str, Decimal] = {}
        for row in filter(is_perp, rows):
            start, size, px = (Decimal(row[key]) for key in ("startPosition", "sz", "px"))
            end = start + (size if row["side"] == "B" else -size)
            average, closed = entry.get(row["coin"], Decimal(0)), min(size, abs(start))
            if start * (end - start) >= 0:
                entry[row["coin"]] = (average * abs(start) + px * size) / abs(end)
                closed = Decimal(0)
            elif start * end < 0:
                entry[row["coin"]] = px
                flips += 1
            pnl = (px - average) * closed * (1 if start > 0 else -1)
            # The book keeps its average in whole price steps: a little is lost at each fill.
            assert abs(pnl - Decimal(row["closedPnl"])) <= px * closed / 500, row
    assert flips > 50


def test_the_odd_kinds_of_rows_all_occur(histories: list[list[dict[str, Any]]]) -> None:
    rows = [row for one in histories for row in one]
    assert any(row["fee"].startswith("-") for row in rows)
    assert {"cloid", "builderFee", "liquidation", "feeTrialEscrow"} <= {key for row in rows for key in row}
    assert {"xyz:NVDA", "@107", "PURR/USDC", "#7501"} <= {row["coin"] for row in rows}
    assert {"Buy", "Sell", "Settlement", "Liquidated Cross Long"} <= {row["dir"] for row in rows}
    assert any(len(row["startPosition"].partition(".")[2]) == 10 for row in rows if is_perp(row))  # noise
    assert any("tid" not in row for row in rows)
    for one in histories:
        dust = [row for row in one if row["dir"] == "Spot Dust Conversion"]
        assert len(dust) >= 2
        assert {(row["tid"], row["hash"]) for row in dust} == {(0, "0x" + "0" * 64)}


def test_the_archive_s_key_is_unique_where_a_tid_exists(histories: list[list[dict[str, Any]]]) -> None:
    for rows in histories:
        keys = Counter(identity(row) for row in rows if "tid" in row)
        assert max(keys.values()) == 1
        assert max(Counter(str(sorted(row.items(), key=str)) for row in rows).values()) == 1


def test_neighbours_are_the_two_sides_of_the_same_trades(histories: list[list[dict[str, Any]]]) -> None:
    common = 0
    for even, odd in zip(histories[::2], histories[1::2], strict=True):
        by_tid = {row["tid"]: row for row in even if row.get("tid")}
        for theirs in odd:
            ours = by_tid.get(theirs.get("tid"))
            if ours is None:
                continue
            common += 1
            assert all(ours[key] == theirs[key] for key in ("coin", "px", "sz", "time", "hash"))
            assert {ours["side"], theirs["side"]} == {"A", "B"}
            assert ours["oid"] != theirs["oid"]
            assert ours["crossed"] is not theirs["crossed"]
    assert common > 500


def test_some_users_of_2023_traded_with_themselves(histories: list[list[dict[str, Any]]]) -> None:
    both_sides = 0
    for rows in histories:
        for buy, sell in pairwise(rows):
            same_trade = all(buy[key] == sell[key] for key in ("time", "coin", "px", "sz", "hash"))
            if same_trade and buy["side"] != sell["side"]:
                assert buy["time"] < OLD_ROWS_END_MS
                assert buy["oid"] != sell["oid"]
                assert buy.get("tid") == sell.get("tid")
                both_sides += 1
    assert both_sides


def test_tids_are_in_no_order_inside_a_millisecond(histories: list[list[dict[str, Any]]]) -> None:
    pairs = [
        before["tid"] < after["tid"]
        for rows in histories
        for before, after in pairwise(rows)
        if before["time"] == after["time"] and before.get("tid") and after.get("tid")
    ]
    assert len(pairs) > 2_000
    assert 0.4 < sum(pairs) / len(pairs) < 0.6


def test_long_histories_have_bursts_and_one_at_the_edge_of_a_page(
    histories: list[list[dict[str, Any]]],
) -> None:
    assert max(Counter(row["time"] for row in histories[5]).values()) >= 100
    population = Population(10, seed=1, lengths=dict.fromkeys(range(10), 2_300))
    times = [population.history(index).times for index in range(10)]
    assert sum(one[1_999] == one[2_000] for one in times) >= 9


def test_a_saturated_user_has_a_millisecond_no_page_can_hold() -> None:
    for seed in range(6):  # whatever the partner's length, and before the end of the default window
        population = Population(4, seed=seed, saturated=(2,), lengths={3: 14_000})
        at, rows = Counter(row["time"] for row in population.fills(2)).most_common(1)[0]
        assert rows >= 2_100
        assert at < WINDOW_END_MS


def test_old_histories_are_made_again_the_same_after_they_were_dropped() -> None:
    population = Population(3_000, seed=5, scale=0.05, lengths={0: 300, 1: 300})
    before = population.fills(0)
    for index in range(10, 600):
        population.history(index)
    assert len(population._cache) <= 512
    assert population.fills(0) == before


def test_a_moving_user_trades_on_by_the_clock_alone() -> None:
    def make() -> Population:
        return Population(2, seed=1, lengths={0: 50, 1: 0}, moving=1.0, moving_fills_per_hour=60, start_now_ms=NOW_MS)

    stepwise, at_once = make(), make()
    for minute in range(0, 31, 7):
        stepwise.history(0, NOW_MS + minute * 60_000)
    late = NOW_MS + 30 * 60_000
    rows = at_once.history(0, late).decoded()
    assert stepwise.history(0, late).decoded() == rows
    assert [row["time"] for row in rows[50:]] == [NOW_MS + minute * 60_000 for minute in range(1, 31)]
    assert at_once.history(0, NOW_MS).decoded() == rows[:50]  # an earlier moment again
    position: dict[str, Decimal] = {}
    for row in filter(is_perp, rows):
        start = Decimal(row["startPosition"])
        assert abs(position.get(row["coin"], start) - start) < Decimal("1e-6")
        position[row["coin"]] = start + Decimal(row["sz"]) * (1 if row["side"] == "B" else -1)


@pytest.mark.parametrize(
    ("steps", "unit", "text"),
    [(0, 10, "0.0"), (1, 10**5, "0.00001"), (612_340, 10, "61234.0"), (-5, 100, "-0.05"), (861, 10**8, "0.00000861")],
)  # fmt: skip
def test_numbers_print_without_exponent_and_with_a_decimal(steps: int, unit: int, text: str) -> None:
    assert number_text(steps, unit) == text


def test_large_positions_print_a_double_s_noise() -> None:
    assert position_text(151_058_506, 10) == "15105850.5999999996"
    assert position_text(20_000_000, 10) == "2000000.0"
    assert position_text(125, 10) == "12.5"


# -- the exchange and its weights, without sockets ---------------------------------------------


def test_retention_counts_the_whole_history_not_the_window() -> None:
    population = Population(1, seed=1, lengths={0: 500})
    exchange = Exchange(population, page_rows=100, retention_rows=120)
    history, user = population.history(0), population.address(0)
    assert exchange.fills_by_time(user, 0, history.times[300], NOW_MS) == []
    found = exchange.truth(user, 0, None, NOW_MS)
    assert found.rows == history.rows[380:]
    assert found.lost_rows == 380
    assert exchange.truth(user, history.times[300], history.times[-1], NOW_MS).lost_rows == 380 - next(
        at for at, time_ms in enumerate(history.times) if time_ms >= history.times[300]
    )


def test_fills_of_the_future_are_not_shown() -> None:
    population = Population(1, seed=1, lengths={0: 500})
    history, user = population.history(0), population.address(0)
    now_ms = history.times[200] - 1
    found = Exchange(population).truth(user, 0, None, now_ms).rows
    assert found == history.rows[: sum(time_ms <= now_ms for time_ms in history.times)]
    assert len(found) <= 200


@pytest.mark.parametrize("model", ["sliding", "fixed", "bucket"])
def test_a_full_budget_refuses_until_time_has_passed(model: WindowModel) -> None:
    meter = WeightMeter(model, 100, 60.0)
    assert [meter.arrive("a", 1.0) for _ in range(6)] == [True] * 5 + [False]
    assert meter.arrive("b", 1.0)  # another address has an account of its own
    assert not meter.arrive("a", 2.0)
    assert meter.arrive("a", 61.5)


def test_the_window_models_differ_where_it_is_unknown_how_the_minute_is_measured() -> None:
    def admitted(model: WindowModel, *arrivals: float) -> list[bool]:
        meter = WeightMeter(model, 20, 60.0)
        return [meter.arrive("a", now) for now in arrivals]

    assert admitted("sliding", 59.0, 60.5, 119.5) == [True, False, True]
    assert admitted("fixed", 59.0, 60.5, 119.5) == [True, True, False]
    assert admitted("bucket", 59.0, 60.5, 119.5) == [True, False, True]
    half = WeightMeter("bucket", 40, 60.0)
    assert [half.arrive("a", 0.0), half.arrive("a", 0.0), half.arrive("a", 30.0)] == [True, True, True]


@pytest.mark.parametrize("model", ["sliding", "fixed", "bucket"])
def test_an_answer_may_overdraw_and_is_paid_back(model: WindowModel) -> None:
    meter = WeightMeter(model, 40, 60.0)
    assert meter.arrive("a", 0.0)
    meter.settle("a", 0.0, 100)
    assert meter.spent("a", 0.0) == ARRIVAL_WEIGHT + 100
    assert not meter.arrive("a", 1.0)
    assert meter.arrive("a", 59.0) is False
    assert meter.arrive("a", 200.0)


def test_rows_are_charged_per_started_twenty_unless_told_otherwise() -> None:
    assert [answer_weight(rows) for rows in (0, 1, 20, 21, 2_000)] == [0, 1, 1, 2, 100]
    assert [answer_weight(rows, rounding="floor") for rows in (0, 19, 20, 2_000)] == [0, 0, 1, 100]
