"""Answers that were meant for somebody else, found out by what others were answered with."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import broken_row, page_of, steadily, wire_row, wire_row_2023
from vigil.fills import Page
from vigil.owners import Owners

ONE, OTHER, THIRD = (f"0x{digit * 40}" for digit in "123")


def page(tids: Iterable[int], **changes: object) -> Page:
    return page_of([wire_row(1_700_000_000_000 + tid, tid, **changes) for tid in tids])


def test_a_page_answered_to_two_users_is_told_to_be_the_first_ones() -> None:
    owners = Owners()
    assert owners.other_owner(ONE, page([1, 2, 3])) is None
    assert owners.other_owner(OTHER, page([1, 2, 3])) == ONE


@pytest.mark.parametrize("tids", [[1], [1, 9], [0, 1], [3], [3, 9], [0, 3], [0, 1, 2, 3], [1, 2, 3, 4]])
def test_a_page_is_known_by_its_first_and_by_its_last_fill(tids: list[int]) -> None:
    owners = Owners()
    assert owners.other_owner(ONE, page([1, 2, 3])) is None
    found = owners.other_owner(OTHER, page(tids))
    assert (found == ONE) == bool({1, 3} & {tids[0], tids[-1]})


def test_the_same_user_may_be_answered_with_the_same_fills_again_and_again() -> None:
    owners = Owners()
    for tids in ([1, 2, 3], [3, 4, 5], [1, 2, 3], [5]):
        assert owners.other_owner(ONE, page(tids)) is None


def test_a_stolen_page_does_not_change_whose_its_fills_are() -> None:
    owners = Owners()
    owners.other_owner(ONE, page([1, 2]))
    assert owners.other_owner(OTHER, page([7, 2])) == ONE
    assert owners.other_owner(ONE, page([1, 2])) is None
    assert owners.other_owner(THIRD, page([7, 8])) is None, "a page that is not believed tells nothing of its fills"


@pytest.mark.parametrize("rows", [[], [broken_row("late", 5)]])
def test_an_empty_page_is_anybodys(rows: list[object]) -> None:
    owners = Owners()
    for user in (ONE, OTHER):
        assert owners.other_owner(user, page_of(rows)) is None


@pytest.mark.parametrize("changes", [{"px": "1.0"}, {"oid": 5}, {"side": "A"}, {"startPosition": "2.0"}, {"fee": "1"}])
def test_the_two_sides_of_one_trade_are_two_fills(changes: dict[str, object]) -> None:
    """Both carry the trade's id, at one time and price."""
    owners = Owners()
    assert owners.other_owner(ONE, page([1])) is None
    assert owners.other_owner(OTHER, page([1], **changes)) is None


@pytest.mark.parametrize("row", [wire_row_2023(), wire_row(tid=0)])
def test_fills_without_an_id_of_their_own_prove_nothing(row: dict[str, object]) -> None:
    """Dust conversions have tid 0, rows of 2023 none at all: those of two users can look alike."""
    owners = Owners()
    for user in (ONE, OTHER):
        assert owners.other_owner(user, page_of([row])) is None


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    owners = Owners(remembered=4)
    for tid in range(1, 6):
        assert owners.other_owner(ONE, page([tid])) is None
    assert owners.other_owner(OTHER, page([1])) is None, "forgotten"
    assert [owners.other_owner(THIRD, page([tid])) for tid in (1, 3, 4, 5)] == [OTHER, ONE, ONE, ONE]
    assert len(owners._owner) == 4


def test_fills_seen_again_are_remembered_for_longer() -> None:
    owners = Owners(remembered=2)
    for tids in ([1], [2], [1], [3]):
        owners.other_owner(ONE, page(tids))
    assert owners.other_owner(OTHER, page([1])) == ONE


@steadily(100)
@given(st.lists(st.tuples(st.sampled_from([ONE, OTHER, THIRD]), st.integers(0, 30), st.integers(1, 5)), max_size=40))
def test_users_whose_fills_are_their_own_are_never_suspected(answers: list[tuple[str, int, int]]) -> None:
    owners = Owners(remembered=10)
    for user, first, rows in answers:
        mine = range(1 + 1000 * int(user[2]) + first, 1 + 1000 * int(user[2]) + first + rows)
        assert owners.other_owner(user, page(mine)) is None


@steadily(100)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=20), st.data())
def test_a_page_of_another_user_is_found_out_whenever_that_one_was_answered_with_it(
    pages: list[tuple[int, int]], data: st.DataObject
) -> None:
    owners = Owners()
    for first, rows in pages:
        owners.other_owner(ONE, page(range(1 + first, 1 + first + rows)))
    first, rows = data.draw(st.sampled_from(pages))
    assert owners.other_owner(OTHER, page(range(1 + first, 1 + first + rows))) == ONE
