"""Months: which ones a report shows, and how many users are how well known in each. Pure.

The database places each user between the months' edges and counts users that lie alike (`report_coverage.sql`), so
that it answers with some hundred groups, however many users there are; here the groups become months.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from vigil.report.data import Month, Reading, Standing
from vigil.settings import DEFAULT_START
from vigil.verdict import Verdict

MOST_MONTHS = 120
"""Ten years: what a row with a time of another century would make of the axis helps nobody."""

_BEFORE_ALL_FILLS = datetime.fromisoformat(DEFAULT_START).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Axis:
    """The months [first, first + count), each a number: years times 12 and the month from 0."""

    first: int
    count: int
    edges_ms: tuple[int, ...]
    """Where the months of the window begin, and its end; the first and the last month may be cut by the window."""
    window_first: int
    """The month that the first edge lies in."""

    def __contains__(self, month: int) -> bool:
        return self.first <= month < self.first + self.count


def number(instant: datetime) -> int:
    """The month of an instant."""
    utc = instant.astimezone(UTC)
    return utc.year * 12 + utc.month - 1


def beginning(month: int) -> datetime:
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


def axis(made_at: datetime, window: tuple[datetime, datetime] | None, rows: Iterable[int]) -> Axis:
    """The months of the window and of the rows, as far as they are not ten years ago or to come."""
    latest = number(made_at)
    earliest = latest - MOST_MONTHS + 1
    shown = {month for month in rows if earliest <= month <= latest}
    edges: list[int] = []
    window_first = latest
    if window is not None:
        start, end = window
        start = max(start, min(_BEFORE_ALL_FILLS, beginning(min(shown, default=latest))))
        start = max(start, beginning(earliest))
        if start < end:
            window_first = number(start)
            inside = range(window_first + 1, number(end) + 1)
            months = [start, *(beginning(month) for month in inside if beginning(month) < end), end]
            edges = [_ms(instant) for instant in months]
            shown |= {window_first + k for k in range(len(edges) - 1)}
    if not shown:
        return Axis(latest, 0, (), latest)
    first = min(shown)
    return Axis(first, max(shown) - first + 1, tuple(edges), window_first)


def months(
    shape: Axis, rows: Mapping[int, tuple[int, Decimal]], groups: Iterable[Mapping[str, Any]], users: int
) -> list[Month]:
    """Each month of the axis; `rows` are fills and volume by month, `groups` what `report_coverage.sql` answers."""
    read = _standings(len(shape.edges_ms) - 1, groups)
    found = []
    for month in range(shape.first, shape.first + shape.count):
        fills, volume = rows.get(month, (0, Decimal(0)))
        k = month - shape.window_first
        known = None
        if users and 0 <= k < len(read):
            known = read[k]
            known[Standing.NOT_READ] = users - sum(known.values())
        found.append(Month(f"{beginning(month):%Y-%m}", fills, volume, _reading(known, users), known))
    return found


def _standings(count: int, groups: Iterable[Mapping[str, Any]]) -> list[dict[Standing, int]]:
    found = [dict.fromkeys(Standing, 0) for _ in range(max(count, 0))]
    for group in groups:
        for k in range(group["first_month"], min(group["end_month"], len(found))):
            found[k][_standing(group["verdict"], k, group["oldest_month"])] += group["users"]
    return found


def _standing(verdict: str | None, month: int, oldest_month: int | None) -> Standing:
    match verdict:
        case Verdict.COMPLETE:
            return Standing.PROVEN
        case Verdict.GAP:
            return Standing.HOLES
        case Verdict.TRUNCATED if oldest_month is None or month < oldest_month:
            return Standing.OUT_OF_REACH
    return Standing.NOTHING_MISSING


def _reading(known: dict[Standing, int] | None, users: int) -> Reading:
    if known is None:
        return Reading.OUTSIDE
    match known[Standing.NOT_READ]:
        case 0:
            return Reading.ALL
        case unread if unread == users:
            return Reading.NONE
    return Reading.SOME


def _ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)
