"""What a backfill will cost, before anything is fetched: weight, hours, rows, disk. Pure.

What is known comes first; what is not is assumed, and said to be. Of users of whom nothing has been read, those who
lose history are guessed apart from the others, for they trade more. Each group is guessed from users of its kind that
have been read, if `ENOUGH` have been; else the losing ones from their rows after the window (vigil.urgency), the
others from a prior (vigil.prior). A user partly read counts what is left of it.

`status` and `run` guess with the same arithmetic (vigil.forecast), but from the fifth user read on, and with
counters in place of a scan: they take a user partly read for a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from vigil.claims import Window
from vigil.forecast import NINETY_PERCENT, Forecast, Left, Sample, fleet_left
from vigil.known import Group, Job, Known
from vigil.prior import END_MS, HEAVY, LAUNCH_MS, LIGHT, MIDDLE, TWAP_SHARE, Lengths

VERSION = 1
"""Of `as_dict` (docs/plan.md): within a version fields are only added."""

ENOUGH = 50
"""Users read before others are guessed from them: histories are heavy-tailed, so the mean of fewer says little."""

ADDRESSES = (1, 4, 10)
"""The original plan's table."""

ROW_BYTES = 470
"""Of a row of `fills` with its key's index, in 30-day chunks (docs/timescaledb.md)."""

PACKED_SHARE = 0.3
"""What the columnstore leaves of that: 140 bytes of 470."""


class Basis(StrEnum):
    """What the guess rests on, for users of whom nothing has been read."""

    READ = "read"  # users read so far
    ARCHIVES = "archives"  # rows after the window, of those who lose history
    PRIOR = "prior"  # an assumption


@dataclass(frozen=True, slots=True)
class Cost:
    """Weight and rows."""

    weight: Forecast
    rows: Forecast

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.weight + other.weight, self.rows + other.rows)


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer; a range should hold what happens nine times of ten, as far as what the guess rests on is right."""

    job: Job
    known: Known
    bases: tuple[Basis, ...]
    """What the guess rests on: of each group; none where everybody has been read, at least partly."""
    cost: Cost

    @property
    def to_read(self) -> int:
        return sum(self.known.users[kind] for kind in ("unread", "partly", "slices"))

    @property
    def requests(self) -> Forecast:
        source, weight, rows = self.job.source, self.cost.weight, self.cost.rows

        def count(weight: float, rows: float) -> float:
            return max(0.0, weight - rows / source.rows_per_weight) / source.base_weight

        return Forecast(
            count(weight.low, rows.low), count(weight.expected, rows.expected), count(weight.high, rows.high)
        )

    def seconds(self, addresses: int, period_seconds: float) -> Forecast:
        """How long so many addresses take, at the source's budget for each."""
        source = self.job.source
        by_weight = self.cost.weight / (source.weight_per_minute * addresses / period_seconds)
        if source.requests_per_minute is None:
            return by_weight
        by_pace = self.requests / (source.requests_per_minute * addresses / period_seconds)
        return max(by_weight, by_pace, key=lambda forecast: forecast.expected)

    @property
    def row_bytes(self) -> float:
        return self.known.row_bytes or ROW_BYTES

    @property
    def disk_bytes(self) -> Forecast:
        """Of the new rows, as they are written."""
        return self.cost.rows / (1 / self.row_bytes)

    @property
    def packed_bytes(self) -> Forecast | None:
        """The same once they are in the columnstore; None where the database has none."""
        return None if self.known.packs is False else self.disk_bytes / (1 / PACKED_SHARE)

    def as_dict(self, addresses: Sequence[int], period_seconds: float) -> dict[str, Any]:
        """For scripts: docs/plan.md."""
        packed = self.packed_bytes
        return {
            "v": VERSION,
            "window": asdict(self.job.window),
            "source": self.job.source.name,
            "users": {"to_read": self.to_read, **self.known.users},
            "basis": list(self.bases),
            "read_users": self.known.read,
            "weight": _whole(self.cost.weight),
            "requests": _whole(self.requests),
            "rows": _whole(self.cost.rows),
            "weight_per_period": self.job.source.weight_per_minute,
            "period_seconds": period_seconds,
            "seconds": [{"addresses": n, **_whole(self.seconds(n, period_seconds))} for n in addresses],
            "disk": {
                "row_bytes": round(self.row_bytes, 1),
                "measured": self.known.row_bytes is not None,
                "bytes": _whole(self.disk_bytes),
                "packed_bytes": packed and _whole(packed),
            },
        }


def plan(job: Job, known: Known) -> Plan:
    """What the job will cost."""
    cost, bases = _begun(job, known), set()
    groups = [known.others, known.losing]
    if known.losing.read_weight.count < ENOUGH and known.losing.rows:
        cost += _from_archives(job, known.losing)
        bases.add(Basis.ARCHIVES)
        groups.remove(known.losing)
    sliced = known.sliced
    if sum(group.unread for group in groups):
        read = _from_read(job, groups) if known.read >= ENOUGH else None
        bases.add(Basis.PRIOR if read is None else Basis.READ)
        cost += read or assumed(job, sum(group.unread for group in groups))
        sliced = TWAP_SHARE if read is None else sliced
    further = known.users["unread"] * job.further(TWAP_SHARE if sliced is None else sliced)
    cost += Cost(_exactly(further), _exactly(0.0))
    return Plan(job, known, tuple(sorted(bases)), cost)


def _from_read(job: Job, groups: Sequence[Group]) -> Cost | None:
    weight = fleet_left([Left(group.unread, group.read_weight) for group in groups], least=job.source.base_weight)
    rows = fleet_left([Left(group.unread, group.read_rows) for group in groups], least=0.0)
    return None if weight is None or rows is None else Cost(weight, rows)


def _from_archives(job: Job, losing: Group) -> Cost:
    return Cost(_loosely(losing.unread * job.source.base_weight, losing.weight), _loosely(0.0, losing.rows))


def _begun(job: Job, known: Known) -> Cost:
    """What is left of those who were begun."""
    base, partly = job.source.base_weight, known.users["partly"]
    weight = _loosely(partly * base, known.partly_weight)
    certain = base * (known.users["slices"] + partly * job.volume_check)
    return Cost(weight + _exactly(certain), _loosely(0.0, known.partly_rows))


def assumed(job: Job, users: int) -> Cost:
    """Of so many users by the prior: its light, middle and heavy form, and what chance adds to them."""
    light, middle, heavy = (_drawn(job, users, lengths) for lengths in (LIGHT, MIDDLE, HEAVY))
    return Cost(
        Forecast(light.weight.low, middle.weight.expected, heavy.weight.high),
        Forecast(light.rows.low, middle.rows.expected, heavy.rows.high),
    )


def _drawn(job: Job, users: int, lengths: Lengths) -> Cost:
    rows = lengths.rows(_scale(job.window))
    rows = rows if job.reach is None else [min(one, job.reach) for one in rows]
    weights = [job.weigh(one) for one in rows]
    return Cost(_by_chance(users, weights, job.source.base_weight), _by_chance(users, rows, 0.0))


def _by_chance(users: int, values: Sequence[int], least: float) -> Forecast:
    """The sum of so many draws from all there is."""
    sample = Sample.of(len(values), sum(values), sum(value * value for value in values))
    expected, spread = users * sample.mean, NINETY_PERCENT * sample.deviation * math.sqrt(users)
    return Forecast(max(expected - spread, users * least), expected, expected + spread)


def _scale(window: Window) -> float:
    """The window's length as a part of the one that the prior is of."""
    return max(0, window.end_ms - max(window.start_ms, LAUNCH_MS)) / (END_MS - LAUNCH_MS)


def _loosely(least: float, expected: float) -> Forecast:
    """Something extrapolated: it may be next to nothing, or twice as much."""
    return Forecast(min(least, expected), expected, 2 * expected)


def _exactly(value: float) -> Forecast:
    return Forecast(value, value, value)


def _whole(forecast: Forecast) -> dict[str, int]:
    return {name: round(value) for name, value in asdict(forecast).items()}
