"""How a user's history is walked, page by page. Pure: it decides, others fetch and store.

Theory of operation. The exchange answers a request with the *earliest* rows at or after
`startTime`, at most 2000 of them, so a history is walked forward. The cap may cut a
millisecond in two, so the next request starts *at* the last time seen, never one later, and
the rows already held are dropped from its answer. That overlap is also evidence: if none of
the held rows comes back, the exchange dropped rows in between (its retention slid past the
cursor while we walked), and the walk records a gap instead of passing over it in silence.

Rules, in the order `Walk.take` applies them:
- rows must ascend in time; a page that does not is refused whole (`PageRefused`);
- rows outside [cursor, end) are dropped and counted; a full page with nothing else is refused, and
  one that begins before the cursor and does not lead beyond it;
- held rows are dropped; none of them there, twice in a row, means a gap of kind `retention`;
- a page whose size is no cap of the server is the last one; a full page that leads on is not, also
  when it holds rows beyond the end, which may be strays;
- a full page inside one millisecond that is also the cursor can't be passed by asking again:
  a gap of kind `saturated` is recorded and the walk goes on one millisecond later (with nothing
  held: rows dropped right behind such a gap can't be told from it);
- the number of rows seen so far ends nothing: the documented 10,000 is soft.

The cursor returned with a page is what may be stored together with the page's fills: a walk
resumed from it, with the keys of the fills stored at that very millisecond, loses and repeats
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from vigil.errors import Fault
from vigil.fills import Fill, Key, Page

PAGE_ROWS = 2000
"""Rows of a full page today (PROVEN on recorded answers; see README)."""


def is_full(rows: int) -> bool:
    """Whether a page of so many rows may have been cut by the server, so that there may be more.

    The exchange's caps known are 2000 and, in 2023, 500. A cap that changes unannounced would end every
    walk early and silently, so any round size from 500 up counts as one: it costs a second
    request for one in a hundred of the longer last pages.
    """
    return may_be_cut(rows, PAGE_ROWS)


def may_be_cut(rows: int, page_rows: int) -> bool:
    """The same of a host whose full pages have `page_rows`, be that more than the exchange's or an odd number."""
    return rows >= page_rows or (rows >= 500 and rows % 100 == 0)


class GapKind(StrEnum):
    """Why rows may be missing between two times."""

    RETENTION = "retention"  # the exchange dropped rows behind the cursor while the walk was under way
    SATURATED = "saturated"  # one millisecond holds a full page; what is beyond it can't be asked for


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows may be missing in [from_ms, to_ms], both inclusive."""

    from_ms: int
    to_ms: int
    kind: GapKind


class PageRefused(ValueError):
    """This page can't be the answer, or is too unlikely to be believed at once: ask for it again.

    Its rows do not ascend in time, or none of a full page lies at or after the cursor, or, for the
    first time, none of the rows held came back (one server lagging behind would look like that).
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Step:
    """What one page brought: the new fills, and the cursor to store with them."""

    fills: list[Fill]
    cursor_ms: int
    done: bool
    gaps: tuple[Gap, ...] = ()
    out_of_window_rows: int = 0


class Walk:
    """One user's window [start_ms, end_ms), read from `cursor_ms` on.

    `held` are the keys of the fills already stored at `cursor_ms`, empty at a fresh start;
    `page_rows` is what a full page of this host has, None: the exchange's.
    """

    def __init__(self, start_ms: int, end_ms: int, *, held: Iterable[Key] = (), page_rows: int | None = None) -> None:
        self.cursor_ms = start_ms
        self.end_ms = end_ms
        self.done = start_ms >= end_ms
        self._held = frozenset(key for key in held if key.time == start_ms)
        self._doubted = False
        self._page_rows = page_rows

    @property
    def last_ms(self) -> int:
        """The inclusive `endTime` to ask for."""
        return self.end_ms - 1

    def __repr__(self) -> str:
        return f"<Walk at {self.cursor_ms} of {self.end_ms}, {len(self._held)} held{', done' if self.done else ''}>"

    def take(self, page: Page) -> Step:
        """Accept the answer to (`cursor_ms`, `last_ms`) and move on.

        Raises: PageRefused; the walk then stands where it stood, and the same page is to be asked for again.
        """
        for earlier, later in pairwise(page):
            if later.time < earlier.time:
                raise PageRefused(Fault.OUT_OF_ORDER, f"a row of {later.time} follows one of {earlier.time}")
        inside = [fill for fill in page if self.cursor_ms <= fill.time < self.end_ms]
        # A cap may be met without the rows that should not be there: repeated ones, and those outside.
        full = self._is_full(page.rows) or self._is_full(len(inside) + len(page.rejected))
        passed_end = any(fill.time >= self.end_ms for fill in page)
        last = self._last_ms_of(page, inside)
        if full and not passed_end and last is None:
            raise PageRefused(
                Fault.NOT_ADVANCING, f"{page.rows} rows, none of them in [{self.cursor_ms}, {self.end_ms})"
            )
        if full and last == self.cursor_ms and page[0].time < self.cursor_ms:  # `startTime` was passed over
            raise PageRefused(Fault.NOT_ADVANCING, f"{page.rows} rows, none of them later than {self.cursor_ms}")
        gaps = self._hole_before(inside)
        fills = [fill for fill in inside if fill.key not in self._held]
        if not full or last is None or (passed_end and last == self.cursor_ms):
            self._move_to(self.end_ms, ())
        elif last == self.cursor_ms:
            gaps += (Gap(last, last, GapKind.SATURATED),)
            self._move_to(last + 1, ())
        else:
            self._move_to(last, (fill.key for fill in inside if fill.time == last))
        return Step(fills, self.cursor_ms, self.done, gaps, len(page) - len(inside))

    def _is_full(self, rows: int) -> bool:
        return is_full(rows) if self._page_rows is None else may_be_cut(rows, self._page_rows)

    def _last_ms_of(self, page: Page, inside: list[Fill]) -> int | None:
        """Where the next page is to start: the last fill's time.

        The time of a row that could not be understood is not believed where it would skip fills;
        it serves only when the fills alone would not get us off the cursor.
        """
        last = inside[-1].time if inside else None
        if last is None or last == self.cursor_ms:
            times = (row.time for row in page.rejected if row.time is not None)
            return min((time for time in times if self.cursor_ms < time < self.end_ms), default=last)
        return last

    def _hole_before(self, inside: list[Fill]) -> tuple[Gap, ...]:
        if not self._held or any(fill.key in self._held for fill in inside):
            return ()
        if not self._doubted:
            self._doubted = True
            raise PageRefused(Fault.OVERLAP_MISSING, "none of the rows already held came back")
        first_ms = inside[0].time if inside else self.last_ms
        return (Gap(self.cursor_ms, first_ms, GapKind.RETENTION),)

    def _move_to(self, cursor_ms: int, held: Iterable[Key]) -> None:
        self.cursor_ms = cursor_ms
        self._held = frozenset(held)
        self._doubted = False
        self.done = cursor_ms >= self.end_ms
