"""What the long commands other than `run` show of themselves. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vigil.export import Progress
from vigil.forecast import duration
from vigil.load.loading import LoadTally
from vigil.upkeep import Upkept
from vigil.views import Look, Pace, View
from vigil.windows import Choice, Selection, Summary

Clock = Callable[[], float]


def loading(tally: LoadTally, clock: Clock = time.monotonic) -> Look:
    """A load, by its tally."""
    pace, began = Pace(), clock()

    def view() -> View:
        seconds = clock() - began
        rate, left = pace(seconds, tally.received), _seconds_left(seconds, tally.bytes_done, tally.bytes_total)
        files = [f"{tally.files_done + tally.files_known:,} of {tally.files_total:,}"]
        files += [f"{len(tally.failed):,} failed"] if tally.failed else []
        of = f" of {tally.bytes_total / 1e6:,.1f}" if tally.bytes_total else ""
        lines = {
            "files": ", ".join(files),
            "rows": f"{describe_load(tally)}, {rate:,.0f} rows/s",
            "read": f"{tally.bytes_done / 1e6:,.1f}{of} MB, {tally.bytes_done / max(seconds, 0.001) / 1e6:,.1f} MB/s",
            "left": _left(left),
        }
        fields = {"seconds": round(seconds, 3), **load_fields(tally), "seconds_left": left}
        return View(lines, fields, tally.bytes_done, tally.bytes_total)

    return view


def describe_load(tally: LoadTally) -> str:
    """The counters in one line."""
    parts = [f"{tally.received:,} rows", f"{tally.inserted:,} new", f"{tally.already_there:,} already there"]
    for name, count in (("updated", tally.updated), ("rejected", tally.rejected), ("passed over", tally.passed_over)):
        if count:
            parts.append(f"{count:,} {name}")
    return ", ".join(parts)


def load_fields(tally: LoadTally) -> dict[str, Any]:
    """The counters for machines."""
    counted = ("received", "inserted", "updated", "already_there", "rejected", "passed_over")
    return {
        "files": {
            "total": tally.files_total,
            "done": tally.files_done,
            "known": tally.files_known,
            "failed": {name: str(error) for name, error in tally.failed.items()},
        },
        "bytes": {"total": tally.bytes_total, "done": tally.bytes_done},
        "rows": {name: getattr(tally, name) for name in counted},
    }


def auditing(look: Callable[[], Summary], selection: Selection, clock: Clock = time.monotonic) -> Look:
    """`verify` or `repair`, by its summary. What follows for windows not looked at is for the end to say."""
    began = clock()

    def view() -> View:
        summary, seconds = look(), clock() - began
        seen = summary.windows + summary.unreachable_windows + summary.unanswered_windows
        wanted = _wanted(summary, selection)
        left = _seconds_left(seconds, seen, wanted or 0)
        windows = [f"{seen:,} of {wanted:,}" if wanted is not None else f"{seen:,}"]
        windows += [f"{summary.differing_windows:,} differ"]
        mended = ((summary.added, "rows added"), (summary.corrected, "corrected"), (summary.gaps_closed, "gaps closed"))
        lines = {
            "users": ", ".join([f"{summary.users:,}", *_some((summary.users_failed, "failed"))]),
            "windows": ", ".join([*windows, *_some((summary.unreachable_windows, "out of reach"))]),
            "mended": ", ".join(_some(*mended)),
            "weight": f"{summary.weight:,} by {summary.requests:,} requests",
            "left": _left(left) if wanted is not None else "",
        }
        fields = {**asdict(summary), "seconds": round(seconds, 3), "windows_wanted": wanted, "seconds_left": left}
        return View({name: text for name, text in lines.items() if text}, fields, seen, wanted or 0)

    return view


def _wanted(summary: Summary, selection: Selection) -> int | None:
    """Windows to look at; None: as many as there are suspect ones, which nobody has counted."""
    if selection.choice is Choice.SUSPECT:
        return None
    known = summary.windows_known
    return min(known, selection.windows) if selection.choice is Choice.SAMPLE else known


def exporting(look: Callable[[], Progress], clock: Clock = time.monotonic) -> Look:
    """An export, by its progress."""
    pace, began = Pace(), clock()

    def view() -> View:
        progress, seconds = look(), clock() - began
        total = max(progress.expected_rows, progress.rows)
        left = _seconds_left(seconds, progress.rows, total)
        lines = {
            "rows": f"{progress.rows:,} of about {total:,}, {pace(seconds, progress.rows):,.0f} rows/s",
            "text": f"{progress.bytes >> 20:,} MiB",
            "left": _left(left),
        }
        return View(
            lines, {"seconds": round(seconds, 3), **asdict(progress), "seconds_left": left}, progress.rows, total
        )

    return view


def tending(done: Upkept, clock: Clock = time.monotonic) -> Look:
    """An upkeep, by what is done."""
    began = since = clock()
    step = ""

    def view() -> View:
        nonlocal since, step
        now = clock()
        if done.step != step:
            step, since = done.step, now
        lines = {
            "months": f"{done.refreshed:,} of {done.months:,} are up to date" if done.months else "",
            "chunks": f"{done.packed:,} of {done.chunks:,} packed" if done.chunks else "",
            "now": f"{step}, for {duration(now - since)}" if step else "looking for what there is to do",
        }
        return View(
            {name: text for name, text in lines.items() if text},
            {"seconds": round(now - began, 3), **asdict(done)},
            done.refreshed + done.packed + done.refused,
            done.months + done.chunks,
        )

    return view


def _some(*counted: tuple[int, str]) -> list[str]:
    return [f"{count:,} {name}" for count, name in counted if count]


def _seconds_left(seconds: float, done: float, total: float) -> int | None:
    """If it goes on as it did; None while nothing is done, or how much there is isn't known."""
    return round(seconds * max(total - done, 0) / done) if done and total else None


def _left(seconds: int | None) -> str:
    return "not known yet" if seconds is None else duration(seconds)
