"""What long commands show of themselves: lines that fit, rates, and what is left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vigil.cli.views import auditing, exporting, loading, tending
from vigil.display import _table
from vigil.errors import StoreError
from vigil.export import Progress
from vigil.load.loading import LoadTally
from vigil.tally import LaneState, Reading, Tally
from vigil.upkeep import Upkept
from vigil.views import backfilling
from vigil.windows import Choice, Selection, Summary


class Clock:
    """Seconds, as far as the test has let them pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def busy() -> Tally:
    lanes = tuple(LaneState(f"192.0.2.{n}", 1200, 1080, 9_999_999, open=n != 3) for n in range(9))
    faults = {"throttled": 12, "error_status": 3_456, "rejected_rows": 7}
    tally = Tally(
        users_total=1_000_000, users_left=876_543, users_done=123_456, users_failed=7, inserted=123_456_789,
        updated=1_234, already_there=56_789, requests=3_456_789, weight=99_999_999, faults=faults, lanes=lanes,
        queued_pages=16, seconds=86_400.0,
    )  # fmt: skip
    tally.reading["0x" + "ab" * 20] = Reading(1.0, pages=1_234, rows=2_468_000)
    return tally


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_block_of_any_width_shows_every_word_and_no_line_is_too_long(columns: int) -> None:
    look = backfilling(busy)
    out = io.StringIO()
    console = Console(file=out, width=columns, force_terminal=False)
    console.print(_table(look, columns))
    rows = [row.rstrip() for row in out.getvalue().splitlines()]
    assert max(map(len, rows)) <= columns
    shown = out.getvalue().split()
    for name, text in look().lines.items():
        assert name in shown
        assert [word for word in text.split() if word not in shown] == []
    assert "…" not in " ".join(word for word in shown if not word.startswith("0x"))


def test_a_load_tells_how_long_the_files_that_are_left_will_take() -> None:
    clock, tally = Clock(), LoadTally(files_total=4, bytes_total=4_000_000)
    look = loading(tally, clock)
    assert look().lines["left"] == "not known yet"
    clock.now += 60
    tally.files_done, tally.bytes_done, tally.received, tally.inserted = 1, 1_000_000, 6_000, 6_000
    tally.failed["b"] = StoreError("no")
    view = look()
    assert view.lines == {
        "files": "1 of 4, 1 failed",
        "rows": "6,000 rows, 6,000 new, 0 already there, 100 rows/s",
        "read": "1.0 of 4.0 MB, 0.0 MB/s",
        "left": "3 min",
    }
    assert (view.done, view.total, view.fields["seconds_left"]) == (1_000_000, 4_000_000, 180)
    assert view.fields["files"] == {"total": 4, "done": 1, "known": 0, "failed": {"b": "no"}}


@pytest.mark.parametrize(
    ("selection", "windows", "left"),
    [
        (Selection(Choice.SAMPLE, 200, 0, None), "50 of 200, 2 differ", "3 min"),
        (Selection(Choice.ALL, 300, 0, None), "50 of 1,000, 2 differ", "19 min"),
        (Selection(Choice.SUSPECT, 300, 0, None), "50, 2 differ", None),
    ],
)
def test_an_audit_tells_how_many_windows_it_looks_at_where_that_is_known(
    selection: Selection, windows: str, left: str | None
) -> None:
    clock = Clock()
    summary = Summary(selection.choice, 0, windows_known=1_000, windows=48, unreachable_windows=2, differing_windows=2)
    look = auditing(lambda: summary, selection, clock)
    clock.now += 60
    view = look()
    assert view.lines["windows"] == f"{windows}, 2 out of reach"
    assert view.lines.get("left") == left
    assert "bound" not in view.fields, "of a part of a sample nothing follows"


def test_an_export_never_has_more_rows_than_it_expects() -> None:
    clock, progress = Clock(), Progress(rows=50, expected_rows=100, bytes=3 << 20)
    look = exporting(lambda: progress, clock)
    clock.now += 10
    assert look().lines == {"rows": "50 of about 100, 0 rows/s", "text": "3 MiB", "left": "10 s"}
    progress.rows = 120
    clock.now += 10
    assert look().lines == {"rows": "120 of about 120, 7 rows/s", "text": "3 MiB", "left": "0 s"}


def test_an_upkeep_tells_what_it_is_at_and_for_how_long() -> None:
    clock, done = Clock(), Upkept()
    look = tending(done, clock)
    assert look().lines == {"now": "looking for what there is to do"}
    done.months, done.refreshed, done.step = 3, 1, "fills_daily of 2024-02"
    look()
    clock.now += 45
    view = look()
    assert view.lines == {"months": "1 of 3 are up to date", "now": "fills_daily of 2024-02, for 45 s"}
    assert (view.done, view.total, view.fields["seconds"]) == (1, 3, 45.0)
