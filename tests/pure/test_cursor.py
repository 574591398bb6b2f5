"""The walk over a user's history, against a model of the exchange's server.

The model answers the earliest `cap` rows with start <= time <= end of what its retention still
holds. Caps are small in the properties (`vigil.cursor.is_full` is replaced to match), so that
a handful of rows makes many page edges; the real caps have tests of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import Row, broken_row, bursts, history, page_of, steadily, wire_row
from vigil.cursor import PAGE_ROWS, Gap, GapKind, PageRefused, Step, Walk, is_full
from vigil.fills import Fill, Key, Page

START, END = 0, 10_000


@dataclass
class Server:
    """The model: `dropped` rows at the front are beyond its retention."""

    rows: Sequence[Row]
    cap: int
    dropped: int = 0
    requests: int = 0

    def answer(self, start_ms: int, end_ms: int) -> Page:
        self.requests += 1
        kept = [row for row in self.rows[self.dropped :] if start_ms <= row["time"] <= end_ms]
        return page_of(kept[: self.cap])

    def drop(self, rows: int) -> None:
        self.dropped = min(len(self.rows), self.dropped + rows)


@contextmanager
def cap_of(cap: int) -> Iterator[None]:
    """A world in which pages of `cap` rows are the full ones."""
    with patch("vigil.cursor.is_full", lambda rows: rows >= cap):
        yield


@dataclass
class Committed:
    """What a database would hold: rows, gaps and the cursor of the newest page in it."""

    fills: list[Fill] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    cursor_ms: int = START
    pages: int = 0

    def add(self, step: Step) -> None:
        self.fills += step.fills
        self.gaps += step.gaps
        self.cursor_ms = step.cursor_ms
        self.pages += 1

    def walk(self, end_ms: int) -> Walk:
        held = [fill.key for fill in self.fills if fill.time == self.cursor_ms]
        return Walk(self.cursor_ms, end_ms, held=held)

    def tids(self) -> list[int | None]:
        return [fill.tid for fill in self.fills]

    def covers(self, time: int) -> bool:
        return any(gap.from_ms <= time <= gap.to_ms for gap in self.gaps)


def take(walk: Walk, page: Page) -> Step:
    """The walk's step, asked for twice where it doubts that a hole is one and the server says the same again."""
    try:
        return walk.take(page)
    except PageRefused as error:
        if "came back" not in str(error):
            raise
        return walk.take(page)


def read(server: Server, *, end_ms: int = END, start_ms: int = START) -> Committed:
    """Walk to the end without a mishap; every page is committed."""
    done = Committed(cursor_ms=start_ms)
    walk = done.walk(end_ms)
    while not walk.done:
        done.add(take(walk, server.answer(walk.cursor_ms, walk.last_ms)))
        assert server.requests <= 2 * len(server.rows) + 2, "the walk does not end"
    return done


def tids(rows: Sequence[Row]) -> list[int]:
    return [row["tid"] for row in rows]


caps = st.integers(2, 6)
pauses = st.integers(1, 3)


@st.composite
def calm(draw: st.DrawFn) -> tuple[int, list[Row]]:
    """A cap, and a history none of whose milliseconds fills a page; many share one across an edge."""
    cap = draw(caps)
    return cap, bursts(draw(st.lists(st.tuples(pauses, st.integers(1, cap - 1)), max_size=12)))


@st.composite
def crowded(draw: st.DrawFn) -> tuple[int, list[Row]]:
    """A cap, and a history some of whose milliseconds hold a full page or more."""
    cap = draw(caps)
    return cap, bursts(draw(st.lists(st.tuples(pauses, st.integers(1, 2 * cap)), max_size=8)))


# -- nothing lost, nothing twice ------------------------------------------------------------


@given(calm())
@steadily(250)
def test_every_fill_is_delivered_once_in_the_order_served_and_no_gap_is_invented(case: tuple[int, list[Row]]) -> None:
    cap, rows = case
    server = Server(rows, cap)
    with cap_of(cap):
        done = read(server)
    assert done.tids() == tids(rows)
    assert done.gaps == []
    assert done.cursor_ms == END


@given(crowded())
@steadily(250)
def test_only_what_a_saturated_millisecond_hides_is_missed_and_each_one_leaves_a_gap(
    case: tuple[int, list[Row]],
) -> None:
    cap, rows = case
    with cap_of(cap):
        done = read(Server(rows, cap))
    population = {time: [row["tid"] for row in rows if row["time"] == time] for time in {r["time"] for r in rows}}
    reachable = [tid for time in sorted(population) for tid in population[time][:cap]]
    assert done.tids() == reachable
    saturated = sorted(time for time, there in population.items() if len(there) >= cap)
    assert done.gaps == [Gap(time, time, GapKind.SATURATED) for time in saturated]


@given(crowded())
@steadily(150)
def test_every_request_but_the_last_moves_the_cursor_forward(case: tuple[int, list[Row]]) -> None:
    cap, rows = case
    server = Server(rows, cap)
    with cap_of(cap):
        walk = Walk(START, END)
        while not walk.done:
            before = walk.cursor_ms
            step = take(walk, server.answer(walk.cursor_ms, walk.last_ms))
            assert step.cursor_ms == walk.cursor_ms > before or before == START
            assert step.done == walk.done
    # A page ends in a new millisecond, or the millisecond after it is skipped to; one more finds the end.
    assert server.requests <= 2 * len({row["time"] for row in rows}) + 1


@given(calm(), st.data())
@steadily(200)
def test_a_reader_killed_after_any_page_and_resumed_has_the_same_fills(
    case: tuple[int, list[Row]], data: st.DataObject
) -> None:
    cap, rows = case
    server = Server(rows, cap)
    done = Committed()
    with cap_of(cap):
        walk = done.walk(END)
        kills = data.draw(st.lists(st.booleans(), max_size=12))
        while not walk.done:
            step = take(walk, server.answer(walk.cursor_ms, walk.last_ms))
            killed = kills.pop() if kills else False
            if killed and data.draw(st.booleans(), label="before its commit"):
                walk = done.walk(END)
                continue
            done.add(step)
            if killed:
                walk = done.walk(END)
    assert done.tids() == tids(rows)
    assert done.gaps == []


def test_a_walk_resumed_from_every_committed_cursor_completes_the_same_union() -> None:
    rows = bursts([(1, 1), (1, 3), (1, 2), (2, 3), (1, 1), (1, 3), (5, 3), (1, 2)])
    with cap_of(4):
        whole = read(Server(rows, 4))
        for pages in range(whole.pages):
            done, server = Committed(), Server(rows, 4)
            walk = done.walk(END)
            for _ in range(pages):
                done.add(take(walk, server.answer(walk.cursor_ms, walk.last_ms)))
            resumed = done.walk(END)
            while not resumed.done:
                done.add(take(resumed, server.answer(resumed.cursor_ms, resumed.last_ms)))
            assert done.tids() == tids(rows)
            assert done.gaps == []


def test_held_keys_of_another_millisecond_are_no_evidence() -> None:
    stale = Key(4, "BTC", 1, 1, "B")
    assert take(Walk(5, END, held=[stale]), page_of([wire_row(7, 2)])).gaps == ()


# -- retention slides while we read ----------------------------------------------------------

FATES = ("commit", "queue", "kill")
"""Of a page and all those queued before it."""


@given(calm(), st.lists(st.tuples(st.integers(0, 9), st.sampled_from(FATES)), max_size=14))
@steadily(300)
def test_what_retention_takes_between_two_pages_lies_in_a_recorded_gap(
    case: tuple[int, list[Row]], events: list[tuple[int, str]]
) -> None:
    """After each page retention takes some rows, and the reader may be killed before its newest pages are committed."""
    cap, rows = case
    server = Server(rows, cap)
    done, pending = Committed(), list[tuple[int, Step]]()
    reachable_from: int | None = None  # what was gone before the first committed answer was never ours to lose
    with cap_of(cap):
        walk = done.walk(END)
        while not walk.done:
            pending.append((server.dropped, take(walk, server.answer(walk.cursor_ms, walk.last_ms))))
            slide, fate = events.pop() if events else (0, "commit")
            if fate == "commit" or walk.done:
                for dropped, page in pending:
                    reachable_from = dropped if reachable_from is None else reachable_from
                    done.add(page)
                pending = []
            server.drop(slide)
            if fate == "kill" and not walk.done:
                pending = []
                walk = done.walk(END)
    assert len(set(done.tids())) == len(done.tids())
    stored = set(done.tids())
    silently_lost = [
        row["tid"] for row in rows[reachable_from or 0 :] if row["tid"] not in stored and not done.covers(row["time"])
    ]
    assert silently_lost == []


@given(calm(), st.lists(st.integers(0, 9), max_size=14))
@steadily(250)
def test_a_retention_gap_is_recorded_exactly_when_everything_held_is_gone(
    case: tuple[int, list[Row]], slides: list[int]
) -> None:
    cap, rows = case
    server = Server(rows, cap)
    done = Committed()
    with cap_of(cap):
        walk = done.walk(END)
        while not walk.done:
            available = tids(rows[server.dropped :])
            held = [fill.tid for fill in done.fills if fill.time == walk.cursor_ms]
            cursor_ms = walk.cursor_ms
            step = take(walk, server.answer(walk.cursor_ms, walk.last_ms))
            done.add(step)
            expected = bool(held) and not set(held) & set(available)
            first_ms = step.fills[0].time if step.fills else END - 1
            assert step.gaps == ((Gap(cursor_ms, first_ms, GapKind.RETENTION),) if expected else ())
            server.drop(slides.pop() if slides else 0)


def test_a_gap_reaches_to_the_end_when_nothing_is_left() -> None:
    rows = history([1, 2, 3, 3, 4, 5])
    server = Server(rows, 3)
    with cap_of(3):
        done = Committed()
        walk = done.walk(END)
        done.add(take(walk, server.answer(walk.cursor_ms, walk.last_ms)))
        server.drop(6)
        done.add(take(walk, server.answer(walk.cursor_ms, walk.last_ms)))
    assert done.gaps == [Gap(3, END - 1, GapKind.RETENTION)]
    assert walk.done


def test_retention_that_cuts_into_the_held_millisecond_leaves_the_rest_and_no_gap() -> None:
    rows = history([1, 5, 5, 5, 5, 6])
    server = Server(rows, 4)
    with cap_of(4):
        walk = Walk(START, END)
        first = take(walk, server.answer(walk.cursor_ms, walk.last_ms))
        server.drop(3)  # the first two of millisecond 5 are gone, the third is held, the fourth is new
        second = take(walk, server.answer(walk.cursor_ms, walk.last_ms))
    assert [fill.tid for fill in (*first.fills, *second.fills)] == tids(rows)
    assert second.gaps == ()


# -- the real caps ---------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [500, 2000])
@pytest.mark.parametrize("rows", [0, 1, -1, 1000, "2 pages", "2 pages with overlap"])
def test_histories_around_a_real_cap_are_read_whole(cap: int, rows: int | str) -> None:
    count = {-1: cap - 1, 1: cap + 1, 0: cap, 1000: 1000, "2 pages": 2 * cap, "2 pages with overlap": 2 * cap - 1}[rows]
    server = Server(history(range(count)), cap)
    done = read(server)
    assert done.tids() == list(range(1, count + 1))
    assert done.gaps == []
    assert server.requests <= count // (cap - 1) + 2


@pytest.mark.parametrize("cap", [500, 2000])
def test_a_millisecond_split_by_a_real_cap_is_whole(cap: int) -> None:
    times = [*range(cap - 14), *[cap] * 21, *range(cap + 1, cap + 100)]
    done = read(Server(history(times), cap))
    assert done.tids() == list(range(1, len(times) + 1))
    assert done.gaps == []


@pytest.mark.parametrize("cap", [500, 2000])
def test_a_millisecond_that_holds_more_than_a_real_page_is_passed_with_a_gap(cap: int) -> None:
    times = [*range(10), *[50] * (cap + 5), *range(60, 90)]
    done = read(Server(history(times), cap))
    assert done.gaps == [Gap(50, 50, GapKind.SATURATED)]
    missing = set(range(1, len(times) + 1)) - {tid or 0 for tid in done.tids()}
    assert missing == set(range(10 + cap + 1, 10 + cap + 6))
    assert len(done.fills) == len(set(done.tids()))


def test_ten_thousand_rows_are_no_reason_to_stop() -> None:
    end_ms = 20_000
    done = read(Server(history(range(10_500)), 2000), end_ms=end_ms)
    assert len(done.fills) == 10_500
    done = read(Server(history(range(10_000)), 2000), end_ms=end_ms)
    assert len(done.fills) == 10_000


@pytest.mark.parametrize("rows", [500, 600, 1000, 1900, 2000, 2001, 5000])
def test_a_round_or_large_page_may_have_been_cut(rows: int) -> None:
    assert is_full(rows)


@pytest.mark.parametrize("rows", [0, 1, 100, 400, 499, 501, 647, 1999])
def test_other_sizes_are_last_pages(rows: int) -> None:
    assert not is_full(rows)


def test_the_page_size_is_the_documented_one() -> None:
    assert PAGE_ROWS == 2000


# -- the window ------------------------------------------------------------------------------


@given(calm(), st.integers(0, 20), st.integers(0, 20))
@steadily(150)
def test_exactly_the_fills_of_the_half_open_window_are_delivered(
    case: tuple[int, list[Row]], start_ms: int, length: int
) -> None:
    cap, rows = case
    end_ms = start_ms + length
    with cap_of(cap):
        done = read(Server(rows, cap), start_ms=start_ms, end_ms=end_ms)
    assert done.tids() == [row["tid"] for row in rows if start_ms <= row["time"] < end_ms]
    assert done.gaps == []


def test_the_last_millisecond_asked_for_is_the_one_before_the_end() -> None:
    walk = Walk(5, 10)
    assert walk.last_ms == 9
    step = take(walk, page_of(history([5, 9, 10])))
    assert [fill.time for fill in step.fills] == [5, 9]
    assert step.out_of_window_rows == 1


@pytest.mark.parametrize("end_ms", [4, 5])
def test_an_empty_window_is_done_before_the_first_request(end_ms: int) -> None:
    assert Walk(5, end_ms).done
    assert not Walk(5, 6).done


def test_an_empty_answer_ends_the_walk_without_a_gap() -> None:
    walk = Walk(START, END)
    assert take(walk, page_of([])) == Step([], END, done=True)
    assert walk.done


def test_rows_before_the_cursor_and_behind_the_end_are_dropped_and_counted() -> None:
    with cap_of(5):
        walk = Walk(10, 20)
        step = take(walk, page_of(history([8, 9, 10, 11, 20])))
    assert [fill.time for fill in step.fills] == [10, 11]
    assert step.out_of_window_rows == 3
    assert (step.cursor_ms, step.done) == (11, False)  # what lies beyond the end may be a stray


def test_a_stray_row_from_beyond_the_end_does_not_end_the_walk() -> None:
    rows = history(range(1, 8))
    for stray in (True, False):
        with cap_of(4):
            walk = Walk(START, 20)
            first = take(walk, page_of([*rows[:4], *([wire_row(25, 99)] if stray else [])]))
            second = take(walk, page_of(rows[3:]))
            last = take(walk, page_of(rows[6:]))
        assert [fill.tid for step in (first, second, last) for fill in step.fills] == tids(rows)
        assert (first.out_of_window_rows, last.done, walk.done) == (int(stray), True, True)


@pytest.mark.parametrize("strangers", [{"again": 3}, {"beyond": 1}, {"again": 2, "beyond": 2}])
def test_a_full_page_is_one_also_with_rows_that_should_not_be_there(strangers: dict[str, int]) -> None:
    rows = history(range(501))
    page = [*rows[: strangers.get("again", 0)], *rows[:500]]
    page.sort(key=lambda row: int(row["time"]))
    page += [wire_row(END + 1 + more, 9_000 + more) for more in range(strangers.get("beyond", 0))]
    assert not is_full(len(page))
    walk = Walk(START, END)
    take(walk, page_of(page))
    assert (walk.cursor_ms, walk.done) == (499, False)


def test_a_server_that_ignores_the_end_still_ends_the_walk() -> None:
    rows = history([*range(5), *range(20, 60)])
    with cap_of(10):
        walk = Walk(START, 30)
        first = take(walk, page_of(rows[:10]))
        assert first.cursor_ms == 24
        second = take(walk, page_of(rows[9:19]))
        third = take(walk, page_of(rows[14:24]))
    assert [fill.tid for step in (first, second, third) for fill in step.fills] == tids(rows[:15])
    assert third.done
    assert third.gaps == ()


# -- pages that are refused ------------------------------------------------------------------


def state(walk: Walk) -> tuple[int, bool, str]:
    return walk.cursor_ms, walk.done, repr(walk)


@given(calm(), st.data())
@steadily(150)
def test_a_page_out_of_order_is_refused_whole_and_may_be_asked_for_again(
    case: tuple[int, list[Row]], data: st.DataObject
) -> None:
    cap, rows = case
    server = Server(rows, cap)
    done = Committed()
    with cap_of(cap):
        walk = done.walk(END)
        while not walk.done:
            page = server.answer(walk.cursor_ms, walk.last_ms)
            shuffled = data.draw(st.permutations(range(len(page))))
            times = [page[i].time for i in shuffled]
            if times != sorted(times):
                before = state(walk)
                disordered = Page([page[i] for i in shuffled], rows=page.rows)
                with pytest.raises(PageRefused, match="follows"):
                    take(walk, disordered)
                assert state(walk) == before
            done.add(take(walk, page))
    assert done.tids() == tids(rows)
    assert done.gaps == []


def test_newest_first_is_out_of_order() -> None:
    with pytest.raises(PageRefused, match="a row of 3 follows one of 7"):
        take(Walk(START, END), page_of(history([7, 3])))


def test_a_full_page_of_rows_before_the_cursor_is_refused_and_the_walk_stays() -> None:
    with cap_of(3):
        walk = Walk(10, 20)
        before = state(walk)
        with pytest.raises(PageRefused, match="none of them"):
            take(walk, page_of(history([1, 2, 3])))
        assert state(walk) == before


def test_a_server_that_sends_the_same_full_page_for_ever_is_refused() -> None:
    rows = page_of(history([1, 2, 3]))
    with cap_of(3):
        walk = Walk(START, END)
        take(walk, rows)
        before = state(walk)
        with pytest.raises(PageRefused, match="none of them later than 3"):
            take(walk, rows)
        assert state(walk) == before
        rest = take(walk, page_of(history([1, 2, 3, 3])[2:]))  # millisecond 3 was not passed over
    assert [fill.tid for fill in rest.fills] == [4]
    assert rest.gaps == ()


# -- rows that could not be understood -------------------------------------------------------


@given(calm(), st.data())
@steadily(250)
def test_rejected_rows_never_cost_a_good_one(case: tuple[int, list[Row]], data: st.DataObject) -> None:
    """Any rows may be broken, their time readable or not; the walk ends or refuses, and skips nothing in silence."""
    cap, rows = case
    fate = data.draw(st.lists(st.sampled_from("ggghn"), min_size=len(rows), max_size=len(rows)))
    sent = [
        row if f == "g" else broken_row(row["time"] if f == "h" else None, row["tid"])
        for row, f in zip(rows, fate, strict=True)
    ]
    times = {row["tid"]: row["time"] for row in rows}

    def answer(start_ms: int, end_ms: int) -> Page:
        return page_of([row for row in sent if start_ms <= times[row["tid"]] <= end_ms][:cap])

    done = Committed()
    with cap_of(cap):
        walk = done.walk(END)
        requests = 0
        while not walk.done:
            try:
                done.add(take(walk, answer(walk.cursor_ms, walk.last_ms)))
            except PageRefused:
                break
            requests += 1
            assert requests <= 2 * len(rows) + 2, "the walk does not end"
    assert len(set(done.tids())) == len(done.tids())
    passed = [row for row, f in zip(rows, fate, strict=True) if f == "g" and row["time"] < walk.cursor_ms]
    stored = set(done.tids())
    assert [row["tid"] for row in passed if row["tid"] not in stored and not done.covers(row["time"])] == []


@pytest.mark.parametrize("readable", [True, False])
def test_a_full_page_that_ends_in_rejected_rows_loses_nothing_behind_them(readable: bool) -> None:
    rows: list[Row] = history(range(1, 9))
    for index in (2, 3):  # the last two of the first page of four
        rows[index] = broken_row(rows[index]["time"] if readable else "yesterday", rows[index]["tid"])

    def answer(start_ms: int) -> Page:
        return page_of([row for index, row in enumerate(rows, start=1) if index >= start_ms][:4])

    delivered: list[int | None] = []
    with cap_of(4):
        walk = Walk(START, END)
        while not walk.done:
            step = take(walk, answer(walk.cursor_ms))
            delivered += [fill.tid for fill in step.fills]
            assert step.gaps == ()
    assert delivered == [1, 2, 5, 6, 7, 8]


def test_a_full_page_of_rejected_rows_only_moves_on_by_their_times() -> None:
    with cap_of(3):
        walk = Walk(START, END)
        step = take(walk, page_of([broken_row(time, time) for time in (1, 2, 3)]))
    assert START < step.cursor_ms <= 3  # how far is its own affair
    assert (step.fills, step.done, step.gaps) == ([], False, ())


def test_a_full_page_without_a_single_readable_time_is_refused() -> None:
    with cap_of(3), pytest.raises(PageRefused):
        take(Walk(START, END), page_of([broken_row(None, tid) for tid in (1, 2, 3)]))


@pytest.mark.parametrize("claimed_ms", [5_000, END + 5_000])
def test_the_time_of_a_row_that_is_not_understood_does_not_carry_the_walk_away(claimed_ms: int) -> None:
    rows = history(range(1, 9))
    page = page_of([rows[0], broken_row(claimed_ms, 99), *rows[1:3]])  # full; rows 4 to 8 are still to come
    with cap_of(4):
        step = take(Walk(START, END), page)
    assert step.cursor_ms <= rows[2]["time"]


def test_retention_is_noticed_though_the_page_before_ended_in_a_rejected_row() -> None:
    rows = history(range(1, 9))
    with cap_of(3):
        walk = Walk(START, END)
        take(walk, page_of([rows[0], rows[1], broken_row(3, 3)]))
        step = take(walk, page_of(rows[6:]))  # 3 to 6 are gone
    assert [gap.kind for gap in step.gaps] == [GapKind.RETENTION]
