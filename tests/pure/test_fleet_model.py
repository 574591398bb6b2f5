"""The fleet's model is the real thing: the same requests, the same weight, the same time, on smaller populations."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from benchmarks.fleet import model, real
from benchmarks.fleet.orders import ORDERS, Order
from benchmarks.fleet.outcome import PER_HOUR, PERIOD, Outcome, least_weight, pages_of
from benchmarks.fleet.population import POPULATIONS, Habits, Users, draw
from benchmarks.picture import Chart, Line
from vigil.cursor import PAGE_ROWS, Walk
from vigil.fills import Page

HARD = Habits(median=900.0, sigma=2.0, active=0.6)


def fresh(order: str, users: Users, addresses: int) -> Order:
    least = sum(least_weight(users.rows(user)) for user in range(len(users)))
    return ORDERS[order](users, least / PER_HOUR / addresses)


Outcomes = tuple[Outcome, Outcome]


def told_and_lived(order: str, addresses: int, readers: int, habits: Habits) -> Outcomes:
    """By the model, and by the real limiter, pager and walk."""
    users = draw(300, habits)
    told = model.simulate(users, fresh(order, users, addresses), addresses, readers=readers)
    lived = real.simulate(users, fresh(order, users, addresses), addresses, readers=readers)
    assert (told.users, told.requests, told.weight, told.saved) == (300, lived.requests, lived.weight, lived.saved)
    assert lived.refused == 0
    return told, lived


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("readers", "habits"), [(8, HARD), (64, HARD), (1, POPULATIONS["middle"])])
def test_with_one_address_the_model_and_the_real_thing_end_in_the_same_moment(
    order: str, readers: int, habits: Habits
) -> None:
    told, lived = told_and_lived(order, 1, readers, habits)
    assert told.seconds == pytest.approx(lived.seconds, abs=0.01)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("addresses", "readers", "habits"), [(3, 8, POPULATIONS["middle"]), (2, 64, HARD)])
def test_with_several_addresses_they_end_within_the_minute_in_which_a_page_fits_again(
    order: str, addresses: int, readers: int, habits: Habits
) -> None:
    told, lived = told_and_lived(order, addresses, readers, habits)
    assert sorted(told.ends) == pytest.approx(sorted(lived.ends), abs=PERIOD + 1)


def sizes_of_walk(rows: int, *, whole: bool) -> list[int]:
    """What the real walk gets, asking until it is done."""
    walk, sizes = Walk(0, real.END_MS), []
    while not walk.done:
        page = real.page_from(rows, walk.cursor_ms)
        if whole:
            fills = [real.fill_at(walk.cursor_ms + place) for place in range(page.rows)]
            page = Page(fills, rows=page.rows)
        sizes.append(page.rows)
        walk.take(page)
    return sizes


LENGTHS = (0, 1, 19, 20, 21, 499, 500, 501, 600, 1_999, 2_000, 2_001, 2_499, 3_998, 3_999, 4_000, 5_998, 10_000, 31_000)


@pytest.mark.parametrize("rows", LENGTHS)
def test_counted_pages_are_those_that_the_walk_asks_for(rows: int) -> None:
    assert list(pages_of(rows)) == sizes_of_walk(rows, whole=False)


@pytest.mark.parametrize("rows", LENGTHS[:15])
def test_a_page_told_by_its_first_and_last_row_is_walked_like_a_whole_one(rows: int) -> None:
    assert sizes_of_walk(rows, whole=False) == sizes_of_walk(rows, whole=True)


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_names_everybody_once_however_often_it_is_renewed(order: str) -> None:
    users = draw(2_000, HARD)
    claims, named, hours = fresh(order, users, 1), [], 0.0
    while (user := claims.next(hours)) is not None:
        named.append(user)
        hours += 0.5
    assert sorted(named) == list(range(2_000))


def test_vigils_order_loses_less_than_chance_where_time_is_short() -> None:
    users = draw(3_000, Habits(median=2_000.0, sigma=1.5, active=0.6))
    saved = {order: model.simulate(users, fresh(order, users, 1), 1).saved for order in ("vigil", "chance")}
    assert saved["vigil"] > saved["chance"]


def test_history_split_by_time_is_read_to_the_row_and_nobody_waits_for_the_longest() -> None:
    habits = Habits(reach=math.inf)
    users = draw(3_000, habits)
    users.window[0] = 400_000  # claimed last
    whole = model.simulate(users, fresh("chance", users, 20), 20)
    split = model.simulate(users, fresh("chance", users, 20), 20, parts=lambda rows: max(1, rows // 20_000))
    assert split.saved == whole.saved == sum(users.window)
    assert split.tail_minutes < whole.tail_minutes / 3
    assert split.weight < whole.weight * 1.02


def test_the_least_weight_is_a_page_for_nobody_and_one_more_for_every_page_begun() -> None:
    assert [least_weight(rows) for rows in (0, 1, PAGE_ROWS, PAGE_ROWS + 1)] == [20, 21, 120, 141]


def test_a_picture_is_well_formed_the_same_each_time_and_has_colours_for_dark_paper() -> None:
    chart = Chart("a < b & c", "x", "y", [Line("one", [(1, 2), (10, 300)]), Line("two", [(1, 2), (10, 300)])], {"m": 9})
    picture = chart.svg()
    assert ET.fromstring(picture).tag.endswith("svg")
    assert picture == chart.svg()
    assert "prefers-color-scheme:dark" in picture
