"""The settings of a simulated exchange: one frozen dataclass, units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vigil.errors import UsageError

from .faults import FaultPlan
from .life import LAST_MS
from .weights import WINDOW_MODELS, WindowModel

# 2026-11-01 00:00 UTC: after the last fill of any static history.
DEFAULT_NOW_MS = 1_793_491_200_000


@dataclass(frozen=True)
class SimulatorConfig:
    """Everything a simulator can be told; the defaults are the real exchange's numbers."""

    # Who trades, and how much.
    users: int = 1_000  # size of the population
    seed: int = 0  # of population and latency; faults have their own in FaultPlan
    scale: float = 1.0  # multiplies the drawn history lengths
    lengths: Mapping[int, int] = field(default_factory=dict)  # user index -> fills, instead of drawing
    saturated_users: tuple[int, ...] = ()  # indices of users with a millisecond no page can hold
    saturated_rows: int = 2_100  # fills in that millisecond

    # What time it is, and who trades on.
    start_now_ms: int = DEFAULT_NOW_MS  # simulated Unix time at start
    speed: float = 1.0  # simulated seconds per real second
    moving: float = 0.0  # share of users (0..1) that keep trading while the simulator runs
    moving_fills_per_hour: float = 0.0  # of each of them, in simulated time

    # How the exchange answers.
    page_rows: int = 2_000  # rows in a full page
    retention_rows: int = 10_000  # newest fills of a user that can be reached
    latency_seconds: tuple[float, float] = (0.0, 0.0)  # (min, max) before each answer

    # What a client may spend.
    weight_per_minute: int = 1_200  # weight per `period_seconds` and remote address; 0: unlimited
    period_seconds: float = 60.0  # the length of that "minute"; shorter in tests
    window_model: WindowModel = "sliding"  # how the minute is measured: sliding, fixed, bucket
    weight_rounding: Literal["ceil", "floor"] = "ceil"  # of rows / 20
    retry_after: int | None = None  # seconds in a Retry-After header of 429s; the real one sends none

    # What goes wrong, and what was recorded.
    faults: FaultPlan = field(default_factory=FaultPlan)
    replay: Path | None = None  # directory of recorded answers to serve as well
    replay_shift_end_ms: int | None = None  # move each recorded user's newest row to just before this

    def __post_init__(self) -> None:
        """Raises: UsageError for what can't be simulated."""
        if self.users < 0 or self.page_rows < 1 or self.retention_rows < 0 or self.scale < 0:
            raise UsageError("users, scale and retention_rows can't be negative, page_rows must be at least 1")
        if self.window_model not in WINDOW_MODELS:
            raise UsageError(f"there is no window model {self.window_model!r}", hint="sliding, fixed or bucket")
        low, high = self.latency_seconds
        if not 0 <= low <= high:
            raise UsageError("latency_seconds is (min, max) with 0 <= min <= max")
        if self.period_seconds <= 0 or self.speed < 0 or not 0 <= self.moving <= 1:
            raise UsageError("period_seconds must be positive, speed not negative, moving between 0 and 1")
        if self.moving and self.start_now_ms < LAST_MS:
            raise UsageError(
                f"users can only trade on after {LAST_MS}, when the static histories are over",
                hint="leave start_now_ms alone, or set moving to 0",
            )
