"""What a sample proves, that it is drawn evenly, and when two rows are the same: no I/O."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import Row, fill_of, steadily, wire_row
from vigil.cursor import Gap, GapKind
from vigil.differences import Held, at_most, compare, differing_columns, shown_bound, upper_bound
from vigil.fills import Stream
from vigil.repair import chunks_of, is_closed_by
from vigil.story import Story, remedies, tell
from vigil.windows import Choice, Look, Span, Summary, Target, draw, joined, pick

# -- the bound ----------------------------------------------------------------------------------------


def exactly_at_most(differing: int, windows: int, share: Fraction) -> Fraction:
    return sum(
        (comb(windows, k) * share**k * (1 - share) ** (windows - k) for k in range(differing + 1)), start=Fraction(0)
    )


@steadily(100)
@given(st.integers(1, 200), st.data())
def test_the_binomial_sum_is_exact(windows: int, data: st.DataObject) -> None:
    differing = data.draw(st.integers(0, windows))
    share = Fraction(data.draw(st.integers(1, 999)), 1000)
    exact = float(exactly_at_most(differing, windows, share))
    assert at_most(differing, windows, float(share)) == pytest.approx(exact, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("share", [Fraction(k, 40) for k in range(1, 40, 3)])
@pytest.mark.parametrize("windows", [1, 7, 30])
def test_the_bound_holds_in_at_least_95_of_100_samples_whatever_the_truth(windows: int, share: Fraction) -> None:
    holds = sum(
        (
            comb(windows, k) * share**k * (1 - share) ** (windows - k)
            for k in range(windows + 1)
            if upper_bound(k, windows) >= share
        ),
        start=Fraction(0),
    )
    assert holds >= Fraction(95, 100)


def test_with_none_differing_the_bound_is_close_to_the_rule_of_three() -> None:
    for windows in (100, 3_000, 1_000_000):
        assert upper_bound(0, windows) == pytest.approx(1 - 0.05 ** (1 / windows), rel=1e-9)
        assert upper_bound(0, windows) == pytest.approx(3 / windows, rel=0.02)


def test_the_bound_grows_with_what_differs_and_ends_at_everything() -> None:
    bounds = [upper_bound(k, 20) for k in range(21)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == 1.0
    assert all(bound > k / 20 for k, bound in enumerate(bounds[:-1]))
    with pytest.raises(ValueError, match="21 of 20"):
        upper_bound(21, 20)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.000998, "0.1 %"), (0.0157, "1.6 %"), (0.01001, "1.1 %"), (0.346, "35 %"), (0.951, "96 %"), (1.0, "100 %"),
     (0.0000299, "0.003 %"), (0.0, "0 %"), (0.1, "10 %")],
)  # fmt: skip
def test_a_bound_is_shown_rounded_up_so_that_it_still_holds(share: float, shown: str) -> None:
    assert shown_bound(share) == shown
    assert float(shown.split()[0]) / 100 >= share - 1e-12


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (Summary(Choice.SAMPLE, 0, windows=3_000), "0 of 3,000 windows differ: below 0.1 % at 95 %"),
        (Summary(Choice.SAMPLE, 0, windows=300, differing_windows=1), "1 of 300 windows differ: below 1.6 % at 95 %"),
        (
            Summary(Choice.SAMPLE, 0, windows=298, unanswered_windows=2),
            "0 of 298 windows differ: below 2.1 % at 95 %, the 2 not answered counted as differing",
        ),
        (Summary(Choice.ALL, 0, windows=5, exhaustive=True), "0 of 5 windows differ: all there are within reach"),
        (
            Summary(Choice.SUSPECT, 0, windows=5),
            "0 of 5 windows differ: suspect ones, not drawn at random, so nothing follows for others",
        ),
        (Summary(Choice.SAMPLE, 0), "no window could be compared"),
        (
            Summary(Choice.SAMPLE, 0, windows=5, signal=2),
            "0 of 5 windows differ: interrupted, so no more can be said",
        ),
    ],
)
def test_the_confidence_is_one_sentence(summary: Summary, said: str) -> None:
    assert summary.confidence == said


# -- the draw -----------------------------------------------------------------------------------------


def population(sizes: list[tuple[int, bool]]) -> list[Target]:
    """A user for each (windows a list, whether its slices were read)."""
    return [
        Target(f"0x{number:040x}", 0, 1_000, 1_000 if slices else None, parts)
        for number, (parts, slices) in enumerate(sizes)
    ]


def test_every_window_of_every_user_is_drawn_equally_often() -> None:
    targets = population([(1, False), (7, False), (1, True), (3, True), (1, False), (20, False)])
    total, windows, draws = sum(one.windows for one in targets), 5, 8_000
    drawn: Counter[tuple[str, int]] = Counter()
    for seed in range(draws):
        for target in pick(targets, draw(total, windows, seed), 0):
            assert target.numbers is not None
            drawn.update((target.user, number) for number in target.numbers)
    assert len(drawn) == total == 37
    expected = draws * windows / total
    squares = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert squares < 70  # chi-square with 36 degrees of freedom: above this in 1 of 1,500 cases


@steadily(100)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=12), st.data())
def test_users_that_come_page_by_page_are_picked_as_if_they_came_at_once(
    sizes: list[tuple[int, bool]], data: st.DataObject
) -> None:
    targets = population(sizes)
    total = sum(one.windows for one in targets)
    drawn = draw(total, data.draw(st.integers(1, total)), data.draw(st.integers(0, 99)))
    cut = data.draw(st.integers(0, len(targets)))
    passed = sum(one.windows for one in targets[:cut])
    picked = pick(targets[:cut], drawn, 0) + pick(targets[cut:], drawn, passed)
    assert picked == pick(targets, drawn, 0)
    assert sum(len(one.numbers or ()) for one in picked) == len(drawn)
    assert all(0 <= number < one.windows for one in picked for number in one.numbers or ())


@steadily(100)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12))
def test_joined_spans_hold_the_same_moments_and_do_not_touch(spans: list[tuple[int, int]]) -> None:
    found = joined(spans)
    moments = {ms for from_ms, to_ms in spans for ms in range(from_ms, to_ms + 1)}
    assert {ms for from_ms, to_ms in found for ms in range(from_ms, to_ms + 1)} == moments
    assert all(after[0] > one[1] + 1 for one, after in pairwise(found))


# -- two rows -----------------------------------------------------------------------------------------


def held(row: Row, **changes: Any) -> Held:
    """The row as the table gives it."""
    fill = fill_of(row)
    amounts = ("px", "sz", "start_position", "closed_pnl", "fee", "builder_fee")
    columns: dict[str, Any] = {
        **{name: None if getattr(fill, name) is None else Decimal(getattr(fill, name)) for name in amounts},
        **{name: getattr(fill, name) for name in ("dir", "hash", "crossed", "fee_token", "twap_id", "cloid")},
        "liquidation": None if fill.liquidation is None else json.dumps(fill.liquidation),
        "extra": None if fill.extra is None else json.dumps(fill.extra, default=float),
        "block_time": None,
        "seq": 0,
    }
    return Held(fill.key, columns | changes)


@pytest.mark.parametrize(
    ("row", "changes", "columns"),
    [
        ({}, {}, ()),
        ({"px": "1.50"}, {"px": Decimal("1.5")}, ()),  # numbers by value
        ({"px": "1.50"}, {"px": Decimal("1.5000000001")}, ("px",)),
        ({"sz": "0.1"}, {"sz": Decimal("0.1000000000000000000000001")}, ("sz",)),  # no float on the way
        ({}, {"fee": None, "dir": None}, ("fee", "dir")),  # the table lacks what is told
        ({}, {"builder_fee": Decimal(1), "cloid": "0x1", "twap_id": 7}, ()),  # the table knows more
        ({}, {"crossed": False}, ("crossed",)),
        ({}, {"seq": 9, "block_time": datetime(2024, 1, 1, tzinfo=UTC)}, ()),
        ({"liquidation": {"markPx": "1.0", "method": "market"}}, {"liquidation": None}, ("liquidation",)),
        ({"liquidation": {"markPx": "1.0", "method": "market"}}, {}, ()),
        ({"odd": {"a": [1, 2.5]}}, {"extra": '{"odd": {"a": [1.0, 2.50]}, "more": 1}'}, ()),
        ({"odd": {"a": [1, 2.5]}}, {"extra": '{"odd": {"a": [1, 2.6]}}'}, ("extra",)),
        ({"odd": True}, {"extra": '{"odd": 1}'}, ("extra",)),
        ({"odd": 1}, {"extra": None}, ("extra",)),
    ],
)
def test_a_row_differs_in_what_the_exchange_tells_and_the_table_does_not_have(
    row: Row, changes: dict[str, Any], columns: tuple[str, ...]
) -> None:
    fill = fill_of(wire_row(**row))
    assert differing_columns(fill, held(wire_row(**row), **changes).columns) == columns


def test_rows_of_the_other_list_are_neither_missing_nor_too_much() -> None:
    rows = [wire_row(tid=tid) for tid in range(1, 5)]
    one, two, three, four = (fill_of(row) for row in rows)
    table = [held(rows[0]), held(rows[1], sz=Decimal(9)), held(rows[3], twap_id=5)]
    found = compare([one, two, three], table, Stream.FILLS)
    assert (found.equal, found.missing, found.extra) == (1, [three], [])
    assert found.differing == [(two, ("sz",))]
    found = compare([], table, Stream.SLICES)
    assert [row.key for row in found.extra] == [four.key]


# -- a repair's decisions -----------------------------------------------------------------------------


def look(from_ms: int, to_ms: int, **changes: Any) -> Look:
    given_: dict[str, Any] = {
        "equal": 1, "missing": [], "differing": [], "extra": [], "out_of_reach": [], "rejected": 0, "refused": [],
        "unrecorded": [], "gaps": (), "first_served_ms": from_ms, **changes,
    }  # fmt: skip
    return Look(
        Span(changes.pop("stream", Stream.FILLS), from_ms, to_ms), **{k: v for k, v in given_.items() if k != "stream"}
    )


GAP = Gap(100, 200, GapKind.RETENTION)


@pytest.mark.parametrize(
    ("looks", "closed"),
    [
        ([look(100, 200)], True),
        ([look(50, 300)], True),
        ([look(100, 200, first_served_ms=101)], False),  # its beginning did not come back
        ([look(100, 200, first_served_ms=None)], False),
        ([look(100, 199)], False),  # not read to its end
        ([look(100, 200, gaps=(Gap(150, 150, GapKind.SATURATED),))], False),
        ([look(50, 300, gaps=(Gap(250, 250, GapKind.SATURATED),))], True),
        ([look(100, 200, out_of_reach=[held(wire_row(100))])], False),  # retention cut its first millisecond
        ([look(50, 300, out_of_reach=[held(wire_row(99))])], False),
        ([look(100, 200, extra=[held(wire_row(150))])], True),  # a stranger inside it
        ([], False),
        ([look(300, 400)], False),
    ],
)
def test_a_gap_is_closed_only_by_a_span_read_whole_whose_beginning_came_back(looks: list[Look], closed: bool) -> None:
    assert is_closed_by(GAP, looks) is closed


def test_what_is_committed_is_what_is_missing_or_differs_fills_last() -> None:
    target = Target("0x" + "ab" * 20, 0, 1_000, 1_000, 1)
    slices = look(0, 999, stream=Stream.SLICES, missing=[fill_of(wire_row(20, 2))])
    fills = look(0, 999, missing=[fill_of(wire_row(30, 3))], differing=[(fill_of(wire_row(10, 1)), ("px",))])
    chunks = chunks_of(target, [fills, slices])
    assert [(chunk.stream, [f.time for f in chunk.fills], chunk.done, chunk.cursor_ms) for chunk in chunks] == [
        (Stream.SLICES, [20], False, None),
        (Stream.FILLS, [10, 30], True, 1_000),
    ]
    (alone,) = chunks_of(target, [slices])
    assert (alone.stream, alone.done, alone.cursor_ms) == (Stream.SLICES, True, None)
    assert chunks_of(target, [look(0, 999)]) == []


# -- what would change a verdict ------------------------------------------------------------------------


def story(verdict: str | None, *causes: str, **changes: Any) -> Story:
    user = {
        "user_address": "0x" + "ab" * 20, "state": "completed", "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "completed_at": datetime(2026, 1, 1, tzinfo=UTC), "window_start_ms": 1_672_531_200_000,
        "window_end_ms": 1_753_574_400_000, "cursor_ms": 1_753_574_400_000, "attempts": 0, "last_error": None,
        "source": "hyperliquid", "sources": ["hyperliquid"], "until_ms": None, "slices_wanted": False,
        "slices_cursor_ms": None, "verdict": verdict, "verdict_causes": list(causes), "verdict_why": "Why.",
        "judged_at": verdict and datetime(2026, 1, 1, tzinfo=UTC), "notional": Decimal(50), "lifetime_volume": None,
        "rows_after_window": 0, "rejected_rows": 0, **changes,
    }  # fmt: skip
    return Story(user, [], [], [])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (story("complete"), "verify --all --user"),
        (story("truncated", "retention"), "--only truncated --source NAME"),
        (story("truncated", "retention"), "archives of fills by user begin on 2025-05-25"),
        (story("gap", "twap"), "--twap always"),
        (story("gap", "recorded_gap"), "repair --user"),
        (story("gap", "rejected_rows", rejected_rows=2), "rejected_fills"),
        (story("unverified", "window_start", window_start_ms=1_700_000_000_000), "--start 2023-01-01"),
        (story("unverified", "only_spot"), "nothing proves spot"),
        (story("unverified", "no_start_position"), "rows of an archive do not tell"),
        (story("truncated", "retention_unknown"), "read on to this moment"),
        (story("empty"), "--volume-check"),
        (story("empty", "lifetime_volume", lifetime_volume=Decimal(5)), "--only empty --source NAME"),
        (story(None), "awaits its verdict"),
        (story(None, state="failed"), "retry --user"),
        (story(None, state="claimed"), "reading it just now"),
        (story(None, state="pending"), "not read to the end"),
    ],
)
def test_what_would_change_a_verdict_follows_from_its_causes(told: Story, words: str) -> None:
    assert any(words in f"{one.why} {one.command}" for one in remedies(told))
    assert words in "\n".join(tell(told))


def test_slices_that_were_read_are_not_advised_again() -> None:
    read = story("gap", "twap", slices_cursor_ms=1_753_574_400_000)
    assert not any("--twap" in (one.command or "") for one in remedies(read))
