"""The report's page: complete in itself, escaped, well formed, honest about what is not known; and its parts."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.database import REPOSITORY
from tests.kit.factories import steadily
from tests.kit.reports import HOSTILE, MADE, a_month, a_report
from vigil.errors import Fault, UsageError, VigilError
from vigil.report import coverage, data, page, place, words
from vigil.report.data import Month, Reading, Report, Standing
from vigil.report.figures import month_bars, over_time, scale, time_ticks
from vigil.report.questions import MOST_LANES, MOST_POINTS, span_seconds
from vigil.verdict import Verdict

VOID = {"meta", "link", "br", "hr", "img", "input"}
GRAPHICS = {"svg", "rect", "line", "text", "path", "circle", "pattern", "defs", "title", "desc"}


class Parsed(HTMLParser):
    """Every element with its attributes and text; `wrong` tells what is not nested as it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.wrong += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in GRAPHICS:
            self.wrong.append(f"<{tag}/>")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, told: str) -> None:
        self.text.append(told)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def values(self, attribute: str) -> list[str]:
        return [value for _, given in self.elements if (value := given.get(attribute)) is not None]


@cache
def parsed(hostile: str = HOSTILE) -> Parsed:
    return Parsed(page.render(a_report(hostile)))


def empty() -> Report:
    report = a_report(
        users=data.Users(0, 0, 0, 0, 0, 0),
        rows=data.Rows(0, Decimal(0), 0, "fills", 0, 0),
        verdicts=[replace(one, users=0, fills=0, notional=None) for one in a_report().verdicts],
        history=[replace(one, users=0) for one in a_report().history],
        rejected=data.Rejected(0, [], 0),
    )
    bare = replace(report, window=None, runs=None, months=[], faults=[], gaps=[], slowest=[], failed=[])
    return replace(bare, caveats=words.caveats(bare))


def text_of(report: Report) -> str:
    return " ".join(" ".join(Parsed(page.render(report)).text).split())


def test_texts_that_would_like_to_be_markup_are_shown_as_they_are() -> None:
    hostile, harmless = parsed(), parsed("harmless")
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert [sorted(given) for _, given in hostile.elements] == [sorted(given) for _, given in harmless.elements]
    shown = "".join(hostile.text)
    assert shown.count("<script>alert(1)</script>") >= 10
    assert "{{ 7 * 7 }}" in shown
    assert "\x1b" not in shown


def test_the_page_is_complete_in_itself_and_forbids_itself_more() -> None:
    found = parsed("harmless")
    assert not found.all("script", "iframe", "object", "embed", "img", "base", "form")
    assert [given["href"] for given in found.all("link")] == ["data:,"]
    assert not found.values("src")
    assert not [name for _, given in found.elements for name in given if name.startswith("on")]
    style = page._source("style.css")
    assert "@import" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))
    policies = [given["content"] for given in found.all("meta") if "http-equiv" in given]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@pytest.mark.parametrize("report", [a_report(), empty()], ids=["whole", "empty"])
def test_the_page_is_well_formed_and_its_references_lead_somewhere(report: Report) -> None:
    found = Parsed(page.render(report))
    assert not found.wrong
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    labels = [one for value in found.values("aria-labelledby") for one in value.split()]
    assert set(labels) <= set(ids)
    painted = re.findall(r"url\(#([^)]*)\)", page._source("style.css"))
    assert set(painted) <= set(ids)


@pytest.mark.parametrize("report", [a_report(), empty()], ids=["whole", "empty"])
def test_headings_skip_no_level_and_every_graphic_and_table_says_what_it_is(report: Report) -> None:
    found = Parsed(page.render(report))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for one in found.all("svg"):
        named = one.get("aria-labelledby") or one.get("aria-label")
        assert (one.get("role") == "img" and named) or one.get("aria-hidden") or "viewbox" in one, one
    assert all(one.get("scope") for one in found.all("th"))
    assert all(one.get("tabindex") == "0" and one.get("aria-label") for one in found.all("div") if "role" in one)


def test_the_largest_report_stays_below_half_a_megabyte() -> None:
    largest = a_report(HOSTILE * 50, months=coverage.MOST_MONTHS, points=MOST_POINTS, lanes=MOST_LANES)
    wide = [replace(month, fills=10**12, volume=Decimal(10) ** 18 / 3) for month in largest.months]
    rejected = data.Rejected(7, [{"reason": HOSTILE * 3, "rows": 7}] * 10, 2)
    assert len(page.render(replace(largest, months=wide, rejected=rejected)).encode()) < 500_000


def test_every_month_is_in_the_tables_that_stand_beside_the_charts() -> None:
    report = a_report()
    text = text_of(report)
    for month in report.months:
        told = f"{month.fills:,} {month.volume:,.0f}" if month.fills else "not read yet"
        assert f"{month.month} {told}" in text


@pytest.mark.parametrize(
    ("reading", "told"),
    [("all", "no fills"), ("some", "none so far"), ("none", "not read yet"), ("outside", "not asked for")],
)
def test_a_month_without_fills_says_why(reading: str, told: str) -> None:
    read = Reading(reading)
    known = None if read is Reading.OUTSIDE else a_month(0).users
    month = Month("2024-02", 0, Decimal(0), read, known)
    assert f"2024-02 {told}" in text_of(replace(a_report(), months=[month]))
    (bar,) = month_bars([month], lambda one: one.fills, lambda one: one.month).bars
    assert bar.unread == (read in (Reading.NONE, Reading.OUTSIDE))


def test_a_report_of_nothing_says_so_and_shows_no_numbers_for_what_is_not_known() -> None:
    text = text_of(empty())
    assert "Nothing has been asked for yet" in text
    assert "Not known: no worker has told how its run went." in text
    assert "0 %" not in text.replace("\N{NO-BREAK SPACE}", " ")


def test_what_to_know_before_is_said() -> None:
    told = " ".join(a_report().caveats)
    expected = (
        "30,000 users are not read to the end (29,980 waiting, 16 being read, 4 failed)",
        *("9,000 users are truncated", "Fills of 1,200 users are missing", "7 rows", "3 days", "2 users are declared"),
    )
    for part in expected:
        assert part in told, part
    assert "No run has told" in " ".join(words.caveats(replace(a_report(), runs=None)))
    clean = replace(a_report(), verdicts=[replace(one, users=0) for one in a_report().verdicts])
    assert "truncated" not in " ".join(words.caveats(clean))


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_percent_says_nothing_and_everything_only_of_these(part: int, more: int) -> None:
    whole = part + more - 1
    told = words.share(part, whole)
    if not whole:
        assert told == "\N{EN DASH}"
        return
    assert (told == "0\N{NO-BREAK SPACE}%") == (part == 0)
    assert (told == "100\N{NO-BREAK SPACE}%") == (part == whole)


def test_numbers_are_written_for_people() -> None:
    assert [words.short(Decimal(n)) for n in ("0", "0.25", "999999", "1234567", "12345678901", "1e15", "NaN")] == [
        "0", "0.25", "999,999", "1.23 million", "12.3 billion", "1,000 trillion", "NaN",
    ]  # fmt: skip
    assert [words.brief(n) for n in (0.5, 20, 2500, 2.5e6, 1e9)] == ["0.5", "20", "2.5 k", "2.5 M", "1 bn"]
    assert [words.lasted(s) for s in (0.3, 4.25, 59.6, 3600, 5025, 90_000)] == [
        "300 ms", "4.2 s", "1 min", "1 h", "1 h 23 min", "1 d 1 h",
    ]  # fmt: skip
    assert words.amount(Decimal("12345678901234567890.4")) == "12,345,678,901,234,567,890"
    assert [words.count(n) for n in (0, 0.25, 3, 10.4, 12_345.6)] == ["0", "0.2", "3", "10", "12,346"]


def test_every_word_of_the_database_has_one_for_people() -> None:
    assert set(words.FAULTS) == set(Fault)
    assert {*words.VERDICTS} == {*Verdict, "not_judged", "not_read"}
    assert set(words.STANDINGS) == set(Standing)
    assert set(words.WITHOUT_FILLS) == set(Reading)


def test_json_is_exact_and_every_field_of_it_is_documented() -> None:
    told = json.loads(json.dumps(a_report().as_dict()))
    assert told["v"] == 1
    assert told["rows"]["volume"] == "98765432109876.123456789"
    assert told["made_at"] == "2025-08-03T14:30:00.000Z"
    assert told["window"] == ["2023-01-01T00:00:00.000Z", "2025-07-27T00:00:00.000Z"]
    documented = (REPOSITORY / "docs" / "report.md").read_text("utf-8")
    rooms = [one for one in vars(data).values() if isinstance(one, type) and one.__module__ == data.__name__]
    names = {field.name for room in rooms if hasattr(room, "__dataclass_fields__") for field in fields(room)}
    words_told = names | {*Standing, *Reading}
    assert {name for name in words_told if f"`{name}`" not in documented} == set()


# ── Months ──────────────────────────────────────────────────────────────────────────────────────


@steadily(50)
@given(st.datetimes(datetime(2005, 1, 1), datetime(2025, 8, 1)), st.integers(0, 4000), st.lists(st.integers(0, 40_000)))
def test_the_axis_holds_the_window_and_the_rows_and_no_century(start: datetime, days: int, rows: list[int]) -> None:
    begin = start.replace(tzinfo=UTC)
    shape = coverage.axis(MADE, (begin, min(MADE, begin + timedelta(days=days, hours=1))), rows)
    assert shape.count <= coverage.MOST_MONTHS
    assert list(shape.edges_ms) == sorted(set(shape.edges_ms))
    assert len(shape.edges_ms) != 1
    latest = coverage.number(MADE)
    assert all(month in shape for month in rows if latest - coverage.MOST_MONTHS < month <= latest)
    for k in range(len(shape.edges_ms) - 1):
        edge = datetime.fromtimestamp(shape.edges_ms[k] / 1000, UTC)
        assert coverage.number(edge) == shape.window_first + k
        assert shape.window_first + k in shape


def test_a_month_cut_by_the_window_reaches_to_the_windows_end() -> None:
    shape = coverage.axis(MADE, (datetime(2025, 5, 10, tzinfo=UTC), datetime(2025, 7, 27, tzinfo=UTC)), [])
    told = [datetime.fromtimestamp(ms / 1000, UTC).strftime("%m-%d") for ms in shape.edges_ms]
    assert told == ["05-10", "06-01", "07-01", "07-27"]


def test_a_truncated_users_months_before_its_oldest_fill_are_out_of_reach_and_no_others() -> None:
    shape = coverage.axis(MADE, (datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)), [])
    group = {"verdict": "truncated", "first_month": 0, "end_month": 3, "oldest_month": 2, "users": 5}
    found = coverage.months(shape, {}, [group], 7)
    told = [{word: n for word, n in (month.users or {}).items() if n} for month in found]
    assert told == [
        {"out_of_reach": 5, "not_read": 2},
        {"out_of_reach": 5, "not_read": 2},
        {"nothing_missing": 5, "not_read": 2},
        {"not_read": 7},
    ]
    assert [month.read for month in found] == ["some", "some", "some", "none"]


# ── Figures ─────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(1e-6, 1e18))
def test_an_axis_shows_what_it_is_made_for_by_few_round_lines(largest: float) -> None:
    top, grid = scale(largest)
    assert largest <= top * 1.001
    assert top <= 2.6 * largest
    assert 1 <= len(grid) <= 6
    assert math.isclose(grid[-1], top)


@given(st.datetimes(datetime(2023, 1, 1), datetime(2030, 1, 1)), st.floats(1, 1e9))
def test_instants_are_told_a_few_times_within_the_chart(begun: datetime, seconds: float) -> None:
    ticks = time_ticks(begun.replace(tzinfo=UTC), seconds)
    assert 1 <= len(ticks) <= 5
    assert all(0 <= tick.place <= 100 for tick in ticks)


def test_a_hole_in_what_was_told_is_a_hole_in_the_line_and_zero_is_not() -> None:
    runs = a_report().runs
    assert runs is not None
    points = [point for n, point in enumerate(runs.points[:20]) if n not in (7, 8)]
    chart = over_time(points, 900, lambda point: 0.0 if point is points[3] else 5.0)
    assert len(chart.steps) == 2
    assert "V1000.0" in chart.steps[0]
    assert over_time(points, 900, lambda point: None).steps == []
    assert over_time([], 900, lambda point: 1.0).steps == []


@given(st.floats(1, 4e8), st.floats(0.01, 4000))
def test_the_span_of_a_point_bounds_their_number_and_is_no_shorter_than_a_sample(whole: float, usual: float) -> None:
    span = span_seconds(whole, usual)
    assert whole / span <= MOST_POINTS
    assert span >= usual * 0.98


# ── The file ────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    place.write(target, "old")
    (tmp_path / "link.html").symlink_to(target)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(VigilError, match=r"can't be written to .*report.html: No space left"):
            place.write(target, "new")
    assert target.read_text() == "old"
    place.write(tmp_path / "link.html", "new")
    assert target.read_text() == "new"
    assert (tmp_path / "link.html").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "report.html"]
    place.write(Path(os.devnull), "nothing")
    assert Path(os.devnull).is_char_device()


def test_a_directory_is_no_place_for_a_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        place.check(tmp_path)
    with pytest.raises(UsageError, match="is no directory"):
        place.check(tmp_path / "nowhere" / "report.html")
