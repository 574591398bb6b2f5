"""What a run has done so far, as numbers; the display and the events read it while it goes on.

Must not know where the numbers come from, nor how they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vigil.allowance import Limit
from vigil.claims import Claim
from vigil.errors import EXIT_DONE, EXIT_SOME_USERS_FAILED
from vigil.fills import Stream
from vigil.forecast import Forecast, Sample, weight_left
from vigil.store import Chunk, Committed


@dataclass(slots=True)
class Reading:
    """A user that is being read: since when (the loop's clock, seconds), pages, rows and weight so far."""

    since: float
    pages: int = 0
    rows: int = 0
    weight: int = 0
    again: bool = False
    """For its TWAP slices: its fills have been read."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """One of this worker's lanes: weight it may spend a period, spent in the last one, in all; not paused."""

    name: str
    share_weight: int
    used_weight: int
    spent_weight: int
    open: bool


@dataclass
class Tally:
    """Rows, users, weight, seconds."""

    users_total: int = 0
    """Done, being read and left."""
    users_left: int = 0
    """Pending when last counted, other workers' share of them included."""
    users_claimed: int = 0
    turns: int = 0
    """Claims: of users, and of lists of slices of theirs."""
    users_done: int = 0
    users_failed: int = 0
    users_left_failed: int = 0
    """Failed users there are at the end, those included that earlier runs have parked."""
    users_elsewhere: dict[str, int] = field(default_factory=dict)
    """Users that this run left alone at its end, by the source that is still to be asked for a part of them."""
    fetched: int = 0
    received: int = 0
    inserted: int = 0
    updated: int = 0
    already_there: int = 0
    refused: int = 0
    rejected: int = 0
    gaps: int = 0
    batches: int = 0
    queued_pages: int = 0
    queue_capacity_pages: int = 0
    database_silent_seconds: float = 0.0
    """Since it last answered; this worker asks it once a second."""
    requests: int = 0
    weight: int = 0
    pauses: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    signal: int | None = None
    limit: Limit | None = None
    """Of the run, that it stopped at."""
    seconds: float = 0.0
    """Since the run began to read."""
    period_seconds: float = 60.0
    lanes: tuple[LaneState, ...] = ()
    others_weight: int = 0
    """What other workers may spend a period."""
    reading: dict[str, Reading] = field(default_factory=dict)
    weight_of_user: Sample = field(default_factory=Sample)

    def count(self, chunks: Sequence[Chunk], committed: Committed) -> None:
        """Add a committed batch."""
        self.batches += 1
        self.users_done += sum(chunk.done and chunk.stream is Stream.FILLS for chunk in chunks)
        self.users_failed += sum(chunk.error is not None for chunk in chunks)
        self.gaps += sum(len(chunk.gaps) for chunk in chunks)
        for name in ("received", "inserted", "updated", "already_there", "refused", "rejected"):
            setattr(self, name, getattr(self, name) + getattr(committed, name))

    def claimed(self, claim: Claim, now: float) -> None:
        """A user's turn begins; `now` is the loop's clock."""
        self.turns += 1
        self.users_claimed += claim.stream is Stream.FILLS
        self.users_left = max(0, self.users_left - 1)  # until it is counted again
        self.reading.setdefault(claim.user, Reading(now, again=claim.stream is Stream.SLICES))

    def read_page(self, user: str, rows: int, weight: int) -> None:
        """A page of a user that is being read has come."""
        if (reading := self.reading.get(user)) is not None:
            reading.pages += 1
            reading.rows += rows
            reading.weight += weight

    def read_user(self, user: str) -> Reading | None:
        """The user's turn is over."""
        reading = self.reading.pop(user, None)
        if reading is not None and reading.weight:
            self.weight_of_user.add(reading.weight)
        return reading

    def slowest(self) -> tuple[str, Reading] | None:
        """Who has been read for longest."""
        return min(self.reading.items(), key=lambda one: one[1].since, default=None)

    def eta(self) -> Forecast | None:
        """Seconds until everybody is read, at the budget of all workers; None when it can't be told yet."""
        weight = weight_left(self.users_left + len(self.reading), self.weight_of_user)
        allowed = sum(lane.share_weight for lane in self.lanes if lane.open) + self.others_weight
        return weight / (allowed / self.period_seconds) if weight and allowed else None

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        return EXIT_SOME_USERS_FAILED if self.users_failed or self.users_left_failed else EXIT_DONE
