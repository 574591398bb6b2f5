"""A report as one HTML page that is complete in itself. Pure.

All markup is in `page.html`, so that everything that comes from a database is escaped in one place, by the engine. A
text of somebody else's also goes through `clean` there: control characters are shown, not obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from vigil.report import words
from vigil.report.data import Month, Point, Reading, Report, Standing
from vigil.report.figures import Chart, month_bars, over_time
from vigil.verdict import RETENTION_ROWS

NOTHING = "\N{EN DASH}"

SOUND = (Standing.PROVEN, Standing.NOTHING_MISSING)
"""What counts as covered."""


def render(report: Report) -> str:
    """The page."""
    return _template().render(
        report=report,
        words=words,
        years=years(report.months),
        standings=list(Standing),
        reach=RETENTION_ROWS,
        fills=month_bars(report.months, lambda month: month.fills, _fills_label),
        volume=month_bars(report.months, lambda month: float(month.volume), _volume_label),
        runs=_run_charts(report),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = words.clean
    environment.globals["style"] = Markup(_source("style.css"))  # noqa: S704  ours, from this package
    return environment.get_template("page.html")


def _source(name: str) -> str:
    return (files("vigil.report") / name).read_text("utf-8")


def years(months: Sequence[Month]) -> list[tuple[str, list[dict[str, str] | None]]]:
    """The heat map: each year with its twelve cells; None where the axis has no such month."""
    found: dict[str, list[dict[str, str] | None]] = {}
    for month in months:
        year, number = month.month.split("-")
        found.setdefault(year, [None] * 12)[int(number) - 1] = _cell(month)
    return list(found.items())


def _cell(month: Month) -> dict[str, str]:
    """A class for the colour, what stands in the cell, and the same in words."""
    if month.users is None:
        return {"level": "outside", "text": "", "words": "not asked for"}
    if month.read is Reading.NONE:
        return {"level": "unread", "text": NOTHING, "words": "not read yet"}
    total = sum(month.users.values())
    covered = sum(month.users[one] for one in SOUND)
    level = 4 if covered == total else sum(covered >= edge * total for edge in (0.5, 0.9)) + (covered > 0)
    told = f"{words.share(covered, total)} of the users covered"
    return {"level": f"heat-{level}", "text": words.cell(covered, total), "words": told}


def _fills_label(month: Month) -> str:
    return f"{month.month}: {_told(month, words.plural(month.fills, 'fill'))}"


def _volume_label(month: Month) -> str:
    return f"{month.month}: {_told(month, words.short(month.volume))}"


def _told(month: Month, value: str) -> str:
    if not month.fills:
        return words.WITHOUT_FILLS[month.read]
    return f"{value}{' so far' if month.read in (Reading.SOME, Reading.NONE) else ''}"


def _run_charts(report: Report) -> dict[str, Chart] | None:
    """The charts over the time of the runs, by name."""
    runs = report.runs
    if runs is None:
        return None
    span = runs.span_seconds

    def rate(per_seconds: float, amount: Callable[[Point], float], **more: Any) -> Chart:
        return over_time(runs.points, span, lambda point: amount(point) * per_seconds / span, **more)

    return {
        "rows": rate(1, lambda point: point.received),
        "users": rate(3600, lambda point: point.users_done),
        "budget": over_time(runs.points, span, budget_use, words.percent, at_least=1),
        "pauses": over_time(runs.points, span, lambda point: point.pauses, smallest_step=1),
        "faults": over_time(runs.points, span, lambda point: point.other_faults, smallest_step=1),
    }


def budget_use(point: Point) -> float | None:
    """Weight spent, as a share of what was allowed; None: nothing was allowed, so that is no 0 %."""
    return point.spent_weight / point.allowed_weight if point.allowed_weight > 0 else None
