"""A long command at one moment: lines for people, fields for machines, and how much of it is done. Pure.

`display` shows a view, `events` and JSON logs tell its fields; neither knows which command it is of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from vigil.forecast import Forecast, duration
from vigil.tally import LaneState, Tally

PACE_SECONDS = 30.0
"""Rows a second are those of so long, or since the last line."""

LANES_SHOWN = 6
"""A line has no room for more; `status` lists them all."""


@dataclass(frozen=True, slots=True)
class View:
    """What there is to show; `done` of `total` is the bar, which is empty while the total is 0: not known."""

    lines: dict[str, str]
    fields: dict[str, Any]
    """As docs/json.md tells them."""
    done: float = 0
    total: float = 0

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return "; ".join(f"{name}: {text}" for name, text in self.lines.items())


Look = Callable[[], View]
"""Tells how things stand now."""

Show = Callable[[Look], Coroutine[Any, Any, None]]
"""Shows what the look tells until it is cancelled."""


class Pace:
    """What was counted a second lately, by a count that only grows."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, seconds: float, count: int) -> float:
        self._seen.append((seconds, count))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[1][0] >= PACE_SECONDS:
            self._seen.popleft()  # the first that stays is at least so old: two lines may be farther apart
        apart = self._seen[-1][0] - self._seen[0][0]
        return (self._seen[-1][1] - self._seen[0][1]) / apart if apart else 0.0


def backfilling(look: Callable[[], Tally]) -> Look:
    """A run, by its tally."""
    pace = Pace()

    def view() -> View:
        tally = look()
        lines = run_lines(tally, pace(tally.seconds, tally.received))
        return View(lines, run_fields(tally), tally.users_done + tally.users_failed, max(tally.users_total, 1))

    return view


def run_lines(tally: Tally, rows_per_second: float) -> dict[str, str]:
    """A line for each name."""
    used, share = (sum(getattr(lane, name) for lane in tally.lanes) for name in ("used_weight", "share_weight"))
    minute = "minute" if tally.period_seconds == 60 else f"{tally.period_seconds:g} s"
    found = {
        "users": _users(tally),
        "fills": f"{_fills(tally)}, {rows_per_second:,.0f} rows/s",
        "weight": f"{used:,} of {share:,} in the last {minute}, {tally.weight:,} in all by {tally.requests:,} requests",
        "faults": _faults(tally),
        "lanes": _lanes(tally.lanes),
        "queue": f"{tally.queued_pages:,} pages wait for the database{_slowest(tally)}",
        "left": _left(tally),
    }
    return {name: text for name, text in found.items() if text}


def _users(tally: Tally) -> str:
    parts = [f"{tally.users_done:,} of {tally.users_total:,}", f"{len(tally.reading):,} being read"]
    if tally.users_failed:
        parts.append(f"{tally.users_failed:,} failed")
    return ", ".join(parts)


def _fills(tally: Tally) -> str:
    counted = {"new": tally.inserted, "updated": tally.updated, "already there": tally.already_there}
    parts = [f"{count:,} {name}" for name, count in counted.items() if count or name == "new"]
    parts += [f"{count:,} {name}" for name, count in (("rejected", tally.rejected), ("gaps", tally.gaps)) if count]
    return ", ".join(parts)


def _faults(tally: Tally) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(tally.faults.items()) if count)


def _lanes(lanes: tuple[LaneState, ...]) -> str:
    if len(lanes) == 1 and lanes[0].open:
        return ""
    shown = [f"{lane.name} {f'{lane.used_weight:,}' if lane.open else 'paused'}" for lane in lanes[:LANES_SHOWN]]
    return ", ".join(shown) + (f" and {len(lanes) - LANES_SHOWN} more" if len(lanes) > LANES_SHOWN else "")


def _slowest(tally: Tally) -> str:
    slowest = tally.slowest()
    if slowest is None:
        return ""
    user, reading = slowest
    return f"; slowest user {user[:8]}…{user[-4:]}: {reading.pages:,} pages, {reading.rows:,} rows"


def _left(tally: Tally) -> str:
    left: Forecast | None = tally.eta()
    if left is None:
        return "not known yet"
    return f"{duration(left.expected)} ({duration(left.low)} to {duration(left.high)})"


def run_fields(tally: Tally) -> dict[str, Any]:
    """The same for machines."""
    eta, slowest = tally.eta(), tally.slowest()
    return {
        "seconds": round(tally.seconds, 3),
        "users": {
            "total": tally.users_total,
            "done": tally.users_done,
            "failed": tally.users_failed,
            "reading": len(tally.reading),
            "left": tally.users_left,
        },
        "fills": {
            name: getattr(tally, name)
            for name in ("received", "inserted", "updated", "already_there", "refused", "rejected")
        },
        "gaps": tally.gaps,
        "requests": tally.requests,
        "weight": tally.weight,
        "pauses": tally.pauses,
        "faults": {name: count for name, count in tally.faults.items() if count},
        "queued_pages": tally.queued_pages,
        "period_seconds": tally.period_seconds,
        "lanes": [asdict(lane) for lane in tally.lanes],
        "slowest": slowest and {"user": slowest[0], "pages": slowest[1].pages, "rows": slowest[1].rows},
        "eta_seconds": eta and {name: round(value) for name, value in asdict(eta).items()},
    }
