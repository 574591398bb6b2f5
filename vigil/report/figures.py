"""Where bars, lines and ticks lie: in percent of the plot, so that a chart fits a phone and a poster. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from vigil.report.data import Month, Point, Reading
from vigil.report.words import brief

GRID_LINES = 4


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at `place` percent; of the height from above, or of the width from the left."""

    place: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Bar:
    left: float
    width: float
    height: float
    top: float
    label: str
    partial: bool = False
    """More may come: drawn hatched."""
    unread: bool = False
    """There is no value at all, not even 0: marked along the axis."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One series over time, as bars or as steps; both are empty where nothing is known."""

    bars: list[Bar]
    steps: list[str]
    """SVG paths in a box of 1000 by 1000, one for each stretch without a hole: the area below."""
    rows: list[Tick]
    columns: list[Tick]


def scale(largest: float, smallest_step: float = 0) -> tuple[float, list[float]]:
    """The top of an axis that shows `largest`, and its grid: round numbers, `smallest_step` apart at least."""
    if largest <= 0 or not math.isfinite(largest):
        return 1.0, []
    rough = max(largest / GRID_LINES, smallest_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    top = step * math.ceil(largest / step * 0.999)
    return top, [step * n for n in range(1, round(top / step) + 1)]


def month_bars(months: Sequence[Month], value: Callable[[Month], float], label: Callable[[Month], str]) -> Chart:
    """A bar a month."""
    if not months:
        return Chart([], [], [], [])
    numbers = [number if math.isfinite(number := value(month)) else 0.0 for month in months]
    top, grid = scale(max(numbers), smallest_step=1)
    width = 100 / len(months)
    bars = []
    for place, (month, number) in enumerate(zip(months, numbers, strict=True)):
        height = max(100 * number / top, 0.6 if number else 0)
        bars.append(
            Bar(
                round(place * width + width * 0.1, 3),
                round(width * 0.8, 3),
                round(height, 3),
                round(100 - height, 3),
                label(month),
                partial=month.read in (Reading.SOME, Reading.NONE),
                unread=not number and month.read in (Reading.NONE, Reading.OUTSIDE),
            )
        )
    return Chart(bars, [], _grid(grid, top, brief), list(_year_ticks(months)))


def over_time(
    points: Sequence[Point],
    seconds: float,
    value: Callable[[Point], float | None],
    text: Callable[[float], str] = brief,
    at_least: float = 0,
    smallest_step: float = 0,
) -> Chart:
    """Steps, each as wide as a point's span; where there is no point there is no line. None: unknown there."""
    if not points:
        return Chart([], [], [], [])
    begun = points[0].at
    whole = (points[-1].at - begun).total_seconds() + seconds
    known = [((point.at - begun).total_seconds(), number) for point in points if (number := value(point)) is not None]
    top, grid = scale(max([at_least, *(number for _, number in known)]), smallest_step)
    paths = [_path(run, seconds, whole, top) for run in _stretches(known, seconds)]
    return Chart([], paths, _grid(grid, top, text), time_ticks(begun, whole))


def _stretches(known: Sequence[tuple[float, float]], seconds: float) -> Iterator[list[tuple[float, float]]]:
    stretch = list(known[:1])
    for before, after in pairwise(known):
        if after[0] - before[0] > seconds * 1.5:
            yield stretch
            stretch = []
        stretch.append(after)
    if stretch:
        yield stretch


def _path(stretch: Sequence[tuple[float, float]], seconds: float, whole: float, top: float) -> str:
    parts = [f"M{1000 * stretch[0][0] / whole:.1f} 1000"]
    for offset, number in stretch:
        parts.append(f"V{1000 - 1000 * number / top:.1f}H{1000 * (offset + seconds) / whole:.1f}")
    return "".join([*parts, "V1000Z"])


def _grid(grid: Sequence[float], top: float, text: Callable[[float], str]) -> list[Tick]:
    return [Tick(round(100 - 100 * number / top, 3), text(number)) for number in grid]


def _year_ticks(months: Sequence[Month]) -> Iterator[Tick]:
    """The years, below their first months; the first month as well, unless the next year is too near."""
    years = [(place, month.month[:4]) for place, month in enumerate(months) if month.month.endswith("-01")]
    if not years or years[0][0] > len(months) * 0.2:
        yield Tick(0, months[0].month, "start")
    every = max(1, math.ceil(len(years) / 6))
    for place, year in years[::every]:
        left = 100 * place / len(months)
        yield Tick(round(left, 3), year, "start" if left < 88 else "end")


def time_ticks(begun: datetime, seconds: float, most: int = 4) -> list[Tick]:
    """Where round instants lie within `seconds` from `begun`, about `most` of them; the beginning, if there is none."""
    units = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
    days = (86_400 * n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000))
    step = next((unit for unit in (*units, *days) if seconds / unit <= most), 864_000_000)
    epoch = begun.timestamp()
    ticks = []
    at = math.ceil(epoch / step) * step
    while at <= epoch + seconds:
        place = 100 * (at - epoch) / seconds
        anchor = "start" if place < 12 else "end" if place > 88 else "middle"
        ticks.append(Tick(round(place, 3), _moment(at, step), anchor))
        at += step
    return ticks or [Tick(0, _moment(epoch, step), "start")]


def _moment(at: float, step: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
    if step >= 86_400:
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%d %b %H:%M}" if step >= 3600 else f"{moment:%H:%M:%S}" if step < 60 else f"{moment:%H:%M}"
