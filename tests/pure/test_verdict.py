"""Verdicts: every branch, and what must hold of histories with planted holes, cuts and disorder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import count, pairwise, permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import USER, steadily
from vigil.cursor import Gap, GapKind
from vigil.fills import Fill, decode_page
from vigil.verdict import (
    RETENTION_ROWS,
    Cause,
    CoinEvidence,
    Row,
    UserFacts,
    Verdict,
    agree,
    find_trail,
    gather,
    is_chained,
    verdict,
)

ZERO_HASH = "0x" + "0" * 64
OPENED, START, END = 1_672_531_200_000, 1_690_000_000_000, 1_753_574_400_000
ALONE = "0xaf0fdd39e5d92499b0ed9f68693da99c0ec1e92e"


# Histories: made, and recorded


class Event(NamedTuple):
    """`lots` move `coin` after `pause_ms`; `kind` is how the row comes to us."""

    pause_ms: int
    coin: str
    lots: int
    kind: str


KINDS = ("api", "archive", "slice", "old", "self_trade", "old_self_trade")
SEQUENCED = ("api", "old")
PERPS = ("BTC", "xyz:NVDA", "kPEPE")
OTHERS = ("@107", "PURR/USDC", "#7501")


def events(kinds: Sequence[str] = KINDS, coins: Sequence[str] = PERPS) -> st.SearchStrategy[list[Event]]:
    """Few lots and short pauses, so that positions recur and milliseconds are shared."""
    lots = st.sampled_from([-3, -2, -1, 1, 2, 3])
    pauses = st.sampled_from([0, 0, 0, 1, 5])
    return st.lists(
        st.builds(Event, pauses, st.sampled_from(coins), lots, st.sampled_from(kinds)), min_size=1, max_size=14
    )


def rows_of(told: Iterable[Event], opened: int = 0, start_ms: int = START) -> list[Row]:
    """The rows in the order of execution, every coin opened with so many lots.

    `seq` counts per millisecond and source, as two endpoints would number; archives do not tell it.
    """
    numbers, places = count(1), dict[tuple[int, bool], int]()
    positions = dict.fromkeys([*PERPS, *OTHERS], opened)
    rows: list[Row] = []
    now = start_ms
    for event in told:
        now += event.pause_ms
        is_slice = event.kind == "slice"
        sides = "BA" if "self_trade" in event.kind else ("B" if event.lots > 0 else "A")
        trade = next(numbers)
        for side in sides:
            number = next(numbers)
            place = places[now, is_slice] = places.get((now, is_slice), -1) + 1
            rows.append(
                Row(
                    now, event.coin, side, Decimal("2.5"), _size(event.coin, abs(event.lots)),
                    _printed(event.coin, positions[event.coin], trade), number,
                    -number if "old" in event.kind else trade, ZERO_HASH if is_slice else f"0x{trade:064x}",
                    side == "B", None if event.kind == "archive" else place, 7 if is_slice else None,
                    event.kind == "archive",
                )
            )  # fmt: skip
        if len(sides) == 1:
            positions[event.coin] += event.lots
    return rows


def _size(coin: str, lots: int) -> Decimal:
    return Decimal(lots) * (Decimal("0.2") if coin == "kPEPE" else Decimal("0.001"))


def _printed(coin: str, lots: int, trade: int) -> Decimal:
    """A large position as a printed float shows it: 15105850.5999999996."""
    if coin != "kPEPE" or lots == 0:
        return _size(coin, lots)
    return _size(coin, lots) + Decimal("4e-10") * (trade % 3 - 1)


def row_of(fill: Fill, *, twap_id: int | None = None) -> Row:
    """A decoded fill as `gather` reads it."""
    assert fill.tid is not None
    return Row(
        fill.time, fill.coin, fill.side, Decimal(fill.px), Decimal(fill.sz), Decimal(fill.start_position), fill.oid,
        fill.tid, fill.hash, fill.crossed, fill.seq, twap_id,
    )  # fmt: skip


def recorded(path: Path, *, newest_first: bool = False) -> list[Row]:
    """A file of recorded answers: fills, or slices with their `twapId`."""
    served: list[dict[str, Any]] = json.loads(path.read_text())
    served = served[::-1] if newest_first else served
    fills = decode_page(json.dumps([one.get("fill", one) for one in served]).encode())
    return [row_of(fill, twap_id=one.get("twapId")) for one, fill in zip(served, fills, strict=True)]


# Facts and evidence to vary


def facts(**changes: Any) -> UserFacts:
    """A user whose whole history, up to the moment it was read, has been read."""
    whole = UserFacts(USER, True, OPENED, END, completed_ms=END, slices_read=True)
    return replace(whole, **changes)


def perp(coin: str = "BTC", **changes: Any) -> CoinEvidence:
    """A perp whose ten fills form a chain from 0."""
    zero = Decimal(0)
    whole = CoinEvidence(coin, True, 10, Decimal(1000), START, START + 9, zero, zero, links=9)
    return replace(whole, **changes)


def spot(coin: str = "@107", rows: int = 10) -> CoinEvidence:
    return CoinEvidence(coin, False, rows, Decimal(50), START, START + 9)


def broken(coin: str = "BTC", **changes: Any) -> CoinEvidence:
    where = dict(zip(("first_break_from_ms", "first_break_to_ms"), (START + 3, START + 4), strict=True))
    last = {"last_break_from_ms": START + 6, "last_break_to_ms": START + 7}
    return perp(coin, broken=2, missing=Decimal("1.5"), **where, **last, **changes)


def judged(known: UserFacts, *evidence: CoinEvidence) -> tuple[Verdict, tuple[Cause, ...]]:
    found = verdict(known, evidence)
    assert found.why.endswith(".")
    assert all(one.why.endswith(".") for one in found.coins)
    return found.verdict, found.causes


MANY = RETENTION_ROWS
NARROW: dict[str, Any] = {"window_start_ms": START - 1}
LATER: dict[str, Any] = {"completed_ms": END + 10**10}
"""Read long after the window's end: how many rows came in between is not known."""
GAPS = (Gap(START + 5, START + 6, GapKind.RETENTION),)
AT_5: dict[str, Any] = {"first_position": Decimal(5)}

USERS = [
    # complete
    (facts(), [perp()], Verdict.COMPLETE, ()),
    (facts(), [perp(), perp("ETH"), spot()], Verdict.COMPLETE, ()),
    (facts(), [perp(first_position=Decimal("1e-10"))], Verdict.COMPLETE, ()),
    (facts(slices_read=False), [perp()], Verdict.COMPLETE, ()),
    (facts(**LATER), [perp()], Verdict.COMPLETE, (Cause.RETENTION_UNKNOWN,)),
    (facts(**LATER, rows_after_window=4), [perp()], Verdict.COMPLETE, ()),
    (facts(**NARROW), [perp()], Verdict.COMPLETE, ()),
    # gap
    (facts(), [broken()], Verdict.GAP, ()),
    (facts(slices_read=False), [broken(), perp("ETH")], Verdict.GAP, (Cause.TWAP,)),
    (facts(gaps=GAPS), [broken()], Verdict.GAP, (Cause.RECORDED_GAP,)),
    (facts(gaps=GAPS), [perp()], Verdict.GAP, (Cause.RECORDED_GAP,)),
    (facts(gaps=GAPS), [], Verdict.GAP, (Cause.RECORDED_GAP,)),
    (facts(rejected_rows=1), [broken()], Verdict.GAP, (Cause.REJECTED_ROWS,)),
    (facts(rejected_rows=1), [perp()], Verdict.GAP, (Cause.REJECTED_ROWS,)),
    (facts(rejected_rows=2), [], Verdict.GAP, (Cause.REJECTED_ROWS,)),
    (facts(completed=False), [broken()], Verdict.GAP, ()),
    (facts(slices_read=False), [perp(**AT_5)], Verdict.GAP, (Cause.TWAP,)),
    (facts(), [broken(), perp("ETH", rows=MANY, **AT_5)], Verdict.GAP, (Cause.RETENTION,)),
    # truncated
    (facts(), [perp(rows=MANY, **AT_5)], Verdict.TRUNCATED, (Cause.RETENTION,)),
    (facts(), [perp(**AT_5), perp("ETH"), spot(rows=MANY)], Verdict.TRUNCATED, (Cause.RETENTION,)),
    (facts(slices_read=False), [perp(rows=MANY, **AT_5)], Verdict.TRUNCATED, (Cause.RETENTION, Cause.TWAP)),
    (facts(**NARROW), [perp(rows=MANY, **AT_5)], Verdict.TRUNCATED, (Cause.RETENTION,)),
    (facts(**LATER), [perp(**AT_5)], Verdict.TRUNCATED, (Cause.RETENTION_UNKNOWN,)),
    (facts(), [perp(**AT_5)], Verdict.TRUNCATED, ()),
    (facts(completed=False), [perp(**AT_5)], Verdict.TRUNCATED, ()),
    (facts(rows_after_window=10), [perp(**AT_5)], Verdict.TRUNCATED, ()),
    # empty
    (facts(), [], Verdict.EMPTY, ()),
    (facts(**LATER), [], Verdict.EMPTY, (Cause.RETENTION_UNKNOWN,)),
    (facts(lifetime_volume=Decimal(9)), [], Verdict.EMPTY, (Cause.LIFETIME_VOLUME,)),
    (facts(lifetime_volume=Decimal(0)), [], Verdict.EMPTY, ()),
    (facts(rows_after_window=MANY), [perp(rows=MANY)], Verdict.EMPTY, (Cause.RETENTION,)),
    (facts(rows_after_window=10, lifetime_volume=Decimal(9)), [perp()], Verdict.EMPTY, ()),
    (facts(rows_after_window=20), [perp(), spot()], Verdict.EMPTY, ()),
    # unverified
    (facts(), [spot(), spot("#7501"), spot("PURR/USDC")], Verdict.UNVERIFIED, (Cause.ONLY_SPOT,)),
    (facts(completed=False, completed_ms=None), [], Verdict.UNVERIFIED, (Cause.UNFINISHED,)),
    (facts(completed=False, completed_ms=None), [perp()], Verdict.UNVERIFIED, (Cause.UNFINISHED,)),
    (facts(), [perp(rows=MANY)], Verdict.UNVERIFIED, (Cause.RETENTION,)),
    (facts(rows_after_window=MANY), [perp(rows=MANY + 1)], Verdict.UNVERIFIED, (Cause.RETENTION,)),
    (facts(**NARROW), [perp(**AT_5), perp("ETH")], Verdict.UNVERIFIED, (Cause.WINDOW_START,)),
    (facts(slices_read=False, **NARROW), [perp(**AT_5)], Verdict.UNVERIFIED, (Cause.WINDOW_START, Cause.TWAP)),
    (facts(), [perp(blind_rows=1), perp("ETH")], Verdict.UNVERIFIED, (Cause.NO_START_POSITION,)),
    (facts(), [broken(blind_rows=1)], Verdict.UNVERIFIED, (Cause.NO_START_POSITION,)),
]


@pytest.mark.parametrize(("known", "evidence", "word", "causes"), USERS)
def test_the_verdict_follows_from_the_evidence(
    known: UserFacts, evidence: list[CoinEvidence], word: Verdict, causes: tuple[Cause, ...]
) -> None:
    assert judged(known, *evidence) == (word, causes)


def test_every_verdict_and_every_cause_has_an_example() -> None:
    assert {word for _, _, word, _ in USERS} == set(Verdict)
    met = {cause for _, _, _, causes in USERS for cause in causes}
    assert met == set(Cause) - {Cause.NOT_JUDGED}  # that one is said by the judge, not decided here


def test_each_coin_has_a_verdict_of_its_own() -> None:
    found = verdict(facts(), [spot(), broken("ETH"), perp("BTC"), perp("SOL", **AT_5)])
    words = [(one.coin, one.verdict) for one in found.coins]
    assert words == [
        ("@107", Verdict.UNVERIFIED),
        ("BTC", Verdict.COMPLETE),
        ("ETH", Verdict.GAP),
        ("SOL", Verdict.TRUNCATED),
    ]


def test_a_recorded_gap_is_named_as_the_cause_only_where_the_chain_breaks() -> None:
    elsewhere = (Gap(START + 100, START + 200, GapKind.SATURATED),)
    (coin,) = verdict(facts(gaps=elsewhere), [broken()]).coins
    assert coin.causes == ()


def test_the_sentence_says_where_and_how_much() -> None:
    why = verdict(facts(), [broken(), perp("ETH")]).why
    assert why == (
        "1 of 2 perps lacks fills. BTC breaks at 2 of 9 links, first between 2023-07-22 04:26:40 and"
        " 2023-07-22 04:26:40; at least 1.5 is missing."
    )
    assert verdict(facts(), [perp(), perp("ETH")]).why == "All 2 perps start at 0 and 18 links hold."


def test_lifetime_volume_is_a_share_and_no_proof() -> None:
    found = verdict(facts(lifetime_volume=Decimal(2100)), [perp(), spot()])
    assert found.notional == 1050
    assert found.volume_share == Decimal("0.5")
    assert found.verdict is Verdict.COMPLETE
    assert verdict(facts(), [perp()]).volume_share is None


def test_perps_are_what_is_neither_spot_nor_an_outcome() -> None:
    assert [coin for coin in (*PERPS, *OTHERS, "@0") if is_chained(coin)] == list(PERPS)


# One millisecond


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2)), min_size=1, max_size=6))
@steadily(1500)
def test_a_trail_is_found_exactly_if_some_order_of_the_fills_makes_a_chain(moves: list[tuple[int, int]]) -> None:
    fills = [(Decimal(start), Decimal(start + move)) for start, move in moves]
    orders = [one for one in permutations(fills) if all(a[1] == b[0] for a, b in pairwise(one))]
    ways = {(one[0][0], one[-1][1]) for one in orders}
    trail = find_trail([start for start, _ in fills], [end for _, end in fills])
    if not ways:
        assert trail is None
    elif trail == (None, None):
        assert ways == {(start, start) for start, _ in fills}  # a round trip, and each of its positions may begin it
    else:
        assert ways == {trail}


def test_a_round_trip_apart_from_the_rest_is_no_chain_though_the_counts_balance() -> None:
    starts, ends = [Decimal(n) for n in (0, 5, 6)], [Decimal(n) for n in (1, 6, 5)]
    assert find_trail(starts, ends) is None


def test_printed_floats_are_one_position_and_lots_are_not() -> None:
    assert agree(Decimal("15105850.5999999996"), Decimal("15105850.6"))
    assert not agree(Decimal("0.00001"), Decimal(0))
    assert not agree(Decimal("15105850.5"), Decimal("15105850.6"))


# Whole histories


def perps_of(rows: Iterable[Row]) -> list[CoinEvidence]:
    return [one for one in gather(rows) if one.chained]


@given(events(), st.sampled_from([0, 2, -4]), st.randoms(use_true_random=False))
@steadily(800)
def test_a_whole_history_has_no_broken_link_however_its_milliseconds_are_ordered(
    told: list[Event], opened: int, random: Any
) -> None:
    rows = rows_of(told, opened)
    random.shuffle(rows)
    for one in perps_of(rows):
        assert (one.broken, one.missing) == (0, Decimal(0))
        assert one.links == one.rows - 1


@given(events(kinds=("api", "old", "old_self_trade")))
@steadily(300)
def test_a_whole_history_from_zero_is_complete(told: list[Event]) -> None:
    assert judged(facts(), *gather(rows_of(told))) == (Verdict.COMPLETE, ())


@given(events(SEQUENCED, ["BTC"]), events(SEQUENCED, ["BTC"]), events(SEQUENCED, ["BTC"]))
@steadily(500)
def test_a_planted_hole_that_moved_the_position_is_a_gap_of_at_least_that_size(
    before: list[Event], lost: list[Event], after: list[Event]
) -> None:
    first, last = Event(0, "BTC", 1, "api"), Event(10, "BTC", 1, "api")
    rows = rows_of([first, before[0]._replace(pause_ms=10), *before[1:], *lost, *after, last])
    begin = 1 + len(before)
    kept = [*rows[:begin], *rows[begin + len(lost) :]]
    moved = sum((row.sz if row.side == "B" else -row.sz for row in rows[begin : begin + len(lost)]), Decimal(0))
    (one,) = gather(kept)
    if moved:
        assert one.broken > 0
        assert one.missing >= abs(moved)
        assert judged(facts(), one)[0] is Verdict.GAP


@given(events(SEQUENCED, ["BTC"]), st.integers(1, 13))
@steadily(300)
def test_a_history_cut_at_its_beginning_is_complete_only_if_it_was_flat_there(told: list[Event], cut: int) -> None:
    whole = rows_of([event._replace(pause_ms=1) for event in told])
    kept = whole[cut:]
    if kept:
        word = judged(facts(), *gather(kept))[0]
        assert word is (Verdict.COMPLETE if kept[0].start_position == 0 else Verdict.TRUNCATED)


def test_a_row_that_does_not_tell_its_position_breaks_nothing_and_proves_nothing() -> None:
    rows = rows_of([Event(1, "BTC", lots, "api") for lots in (1, 1, -2, 1)])
    rows[1] = rows[1]._replace(start_position=None)
    (one,) = gather(rows)
    assert (one.links, one.broken, one.blind_rows) == (1, 0, 1)
    assert judged(facts(), one)[0] is Verdict.UNVERIFIED


def test_flips_liquidations_and_settlements_are_links_like_others() -> None:
    """Nothing but size and side moves a position: `dir` is not even looked at."""
    (one,) = gather(rows_of([Event(1, "BTC", lots, "api") for lots in (2, -3, 3, -1, -1)]))
    assert (one.links, one.broken, one.last_position) == (4, 0, Decimal(0))


def a_first_millisecond_of_two_endpoints() -> list[Row]:
    """From 0 to -1 lot by a slice and back by a fill: both are the first of their answer, listed the other way."""
    slice_, fill = rows_of([Event(0, "BTC", -1, "slice"), Event(0, "BTC", 1, "api")])
    return [slice_._replace(tid=2), fill._replace(tid=1)]


def two_orders_of_one_request_in_2023() -> list[Row]:
    """Buy, sell, sell, by the same taker: the first and the last look like a self-trade. One fill is missing later."""
    rows = rows_of([Event(0, "BTC", lots, "old") for lots in (1, -1, -1)] + [Event(9, "BTC", 1, "old")] * 3)
    return [row._replace(hash="0x1", crossed=True) for place, row in enumerate(rows) if place != 4]


def test_a_round_trip_over_two_endpoints_begins_where_it_can_have_begun() -> None:
    (one,) = gather(a_first_millisecond_of_two_endpoints())
    assert (one.first_position, one.links, one.broken) == (Decimal(0), 1, 0)


def test_two_takers_are_no_self_trade() -> None:
    (one,) = gather(two_orders_of_one_request_in_2023())
    assert (one.self_trades, one.broken, one.missing) == (0, 1, Decimal("0.001"))


# Recorded answers


def totals(rows: Iterable[Row]) -> tuple[int, int]:
    found = perps_of(rows)
    return sum(one.links for one in found), sum(one.broken for one in found)


def test_every_link_of_recorded_histories_without_twap_orders_holds(real_fills: Path) -> None:
    for path in sorted(real_fills.glob("by_time_*_acc*.json")):
        links, breaks = totals(recorded(path))
        assert (breaks, links > 0) == (0, True), path.name
    for path in sorted(real_fills.glob("user_fills_0x*.json")):
        if ALONE not in path.name:
            links, breaks = totals(recorded(path, newest_first=True))
            assert (breaks, links > 1800) == (0, True), path.name


def test_recorded_executions_of_twap_orders_are_the_holes_of_their_owner(real_fills: Path) -> None:
    fills = recorded(real_fills / f"user_fills_later_{ALONE}.json", newest_first=True)
    slices = recorded(real_fills / f"twap_slice_fills_{ALONE}.json", newest_first=True)
    assert totals(slices) == (1994, 0)
    assert totals(fills) == (792, 13)
    assert totals([*fills, *slices]) == (2792, 19)
    # The file of slices begins in the middle of its orders: what breaks, breaks before, and nothing behind.
    begun = min(row.time_ms for row in slices)
    for one in perps_of([*fills, *slices]):
        assert one.last_break_from_ms is None or one.last_break_from_ms < begun


def test_recorded_self_trades_of_2023_move_nothing(real_fills: Path) -> None:
    path = real_fills / "user_fills_2023.json"
    # Newest first, but inside a millisecond in the order of execution.
    served = sorted(json.loads(path.read_text()), key=lambda row: int(row["time"]))
    rows = [row_of(fill) for fill in decode_page(json.dumps(served).encode())]
    found = perps_of(rows)
    assert sum(one.self_trades for one in found) == 83
    assert totals(rows) == (485, 1)
    # The one break is at the oldest row: the cut of the answer went through a self-trade.
    (cut,) = [one for one in found if one.broken]
    assert cut.first_break_from_ms == cut.first_ms == min(row.time_ms for row in rows)
