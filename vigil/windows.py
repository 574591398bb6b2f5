"""What an audit looks at, and what it says: windows, the draw among them, accounts of users, the sum. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vigil.cursor import Gap
from vigil.differences import CONFIDENCE, Held, shown_bound, upper_bound
from vigil.errors import EXIT_DIFFERENCES, EXIT_DONE, EXIT_SOME_USERS_FAILED
from vigil.fills import Fill, Key, Rejected, Stream

WINDOW_ROWS = 1900
"""Rows of a window at most, as counted: a page holds 2000, and what the table lacks must fit on it as well."""

SAMPLE_WINDOWS = 300
"""Drawn unless told otherwise: with none differing, below 1 % differ."""


class Choice(StrEnum):
    """Which windows to look at."""

    SAMPLE = "sample"
    ALL = "all"
    SUSPECT = "suspect"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to look at; `users` None means everybody."""

    choice: Choice = Choice.SAMPLE
    windows: int = SAMPLE_WINDOWS
    seed: int = 0
    users: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Part of one list of a user, [from_ms, to_ms], both inclusive."""

    stream: Stream
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Target:
    """A user read in [start_ms, end_ms), its TWAP slices to `slices_end_ms`; `parts` windows make each list.

    `numbers` are the windows to look at, those of the second list after those of the first; None: all.
    """

    user: str
    start_ms: int
    end_ms: int
    slices_end_ms: int | None
    parts: int
    numbers: tuple[int, ...] | None = None

    @property
    def windows(self) -> int:
        return self.parts * len(self.lists)

    @property
    def lists(self) -> dict[Stream, int]:
        """What was read of each list: its end, exclusive."""
        ends = {Stream.FILLS: self.end_ms}
        if self.slices_end_ms is not None:
            ends[Stream.SLICES] = min(self.slices_end_ms, self.end_ms)
        return ends


@dataclass(slots=True)
class Look:
    """What a span looks like on both sides."""

    span: Span
    equal: int
    missing: list[Fill]
    differing: list[tuple[Fill, tuple[str, ...]]]
    extra: list[Held]
    out_of_reach: list[Held]
    rejected: int
    """Rows served that are known to be none that can be stored, those `refused` included."""
    refused: list[Fill]
    """Fills that the database would not take when they were read: in `rejected_fills`."""
    unrecorded: list[Rejected]
    """The same, but not in `rejected_fills`."""
    gaps: tuple[Gap, ...]
    first_served_ms: int | None

    @property
    def signs(self) -> str:
        """`-`, `+` and `*` as they apply, or `=`."""
        lacking = self.missing or self.unrecorded
        return "".join(sign for sign, rows in (("-", lacking), ("+", self.extra), ("*", self.differing)) if rows) or "="

    @property
    def differs(self) -> bool:
        return self.signs != "="

    @property
    def compared(self) -> bool:
        """Whether any of it was within reach."""
        return self.differs or bool(self.equal or self.rejected) or not self.out_of_reach


@dataclass(slots=True)
class Account:
    """What came out for one user. Windows and rows; `spans` tells of each window that differs."""

    user: str
    windows: int = 0
    differing_windows: int = 0
    unreachable_windows: int = 0
    """Wholly out of the exchange's reach by now: not compared."""
    unanswered_windows: int = 0
    equal: int = 0
    missing: int = 0
    extra: int = 0
    extra_from_archives: int = 0
    differing: int = 0
    out_of_reach: int = 0
    rejected: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    spans: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    # What a repair did.
    added: int = 0
    corrected: int = 0
    gaps_closed: int = 0
    gaps_left: list[Gap] = field(default_factory=list)
    refused: int = 0

    @property
    def signs(self) -> str:
        counts = (("-", self.missing), ("+", self.extra), ("*", self.differing), ("!", self.error))
        return "".join(sign for sign, any_of in counts if any_of) or "="

    def count(self, look: Look) -> None:
        self.windows += look.compared
        self.unreachable_windows += not look.compared
        self.differing_windows += look.differs
        self.equal += look.equal
        self.missing += len(look.missing) + len(look.unrecorded)
        self.extra += len(look.extra)
        self.extra_from_archives += sum(row.columns["block_time"] is not None for row in look.extra)
        self.differing += len(look.differing)
        self.out_of_reach += len(look.out_of_reach)
        self.rejected += look.rejected
        self.columns.update(name for _, names in look.differing for name in names)
        if look.differs:
            self.spans.append(_told(look))


def _told(look: Look) -> dict[str, Any]:
    """A window that differs, with the key of the first row of each kind."""
    firsts: dict[str, Key] = {}
    if look.missing:
        firsts["first_missing"] = look.missing[0].key
    if look.extra:
        firsts["first_extra"] = min(row.key for row in look.extra)
    if look.differing:
        firsts["first_differing"] = look.differing[0][0].key
    return {
        "list": str(look.span.stream),
        "from_ms": look.span.from_ms,
        "to_ms": look.span.to_ms,
        "signs": look.signs,
        "missing": len(look.missing) + len(look.unrecorded),
        "extra": len(look.extra),
        "differing": len(look.differing),
        **{name: key._asdict() for name, key in firsts.items()},
    }


@dataclass(slots=True)
class Summary:
    """The sum of the accounts, and what it says of the windows that there are."""

    choice: Choice
    seed: int
    users_known: int = 0
    """Users read to their end, among those asked for: whose windows `windows_known` are."""
    windows_known: int = 0
    users: int = 0
    users_failed: int = 0
    windows: int = 0
    differing_windows: int = 0
    unreachable_windows: int = 0
    unanswered_windows: int = 0
    equal: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    out_of_reach: int = 0
    rejected: int = 0
    added: int = 0
    corrected: int = 0
    gaps_closed: int = 0
    gaps_left: int = 0
    refused: int = 0
    requests: int = 0
    weight: int = 0
    exhaustive: bool = False
    """Every window there is was to be looked at."""
    signal: int | None = None

    def count(self, account: Account) -> None:
        self.users += 1
        self.users_failed += account.error is not None
        for name in (
            "windows", "differing_windows", "unreachable_windows", "unanswered_windows", "equal", "missing", "extra",
            "differing", "out_of_reach", "rejected", "added", "corrected", "gaps_closed", "refused",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(account, name))
        self.gaps_left += len(account.gaps_left)

    @property
    def bound(self) -> float | None:
        """The share of windows that may differ at `CONFIDENCE`; windows that were not answered may all differ."""
        asked = self.windows + self.unanswered_windows
        if self.choice is not Choice.SAMPLE or self.exhaustive or not asked or self.signal is not None:
            return None
        return upper_bound(self.differing_windows + self.unanswered_windows, asked)

    @property
    def confidence(self) -> str:
        """What the windows looked at say of all there are, in a sentence."""
        counted = f"{self.differing_windows:,} of {self.windows:,} windows differ"
        if self.signal is not None:
            return f"{counted}: interrupted, so no more can be said"
        if not self.windows + self.unanswered_windows:
            return "nothing is suspect" if self.choice is Choice.SUSPECT else "no window could be compared"
        if self.choice is Choice.SUSPECT:
            return f"{counted}: suspect ones, not drawn at random, so nothing follows for others"
        if self.bound is None:
            return f"{counted}: all there are within reach"
        doubt = (
            f", the {self.unanswered_windows:,} not answered counted as differing" if self.unanswered_windows else ""
        )
        return f"{counted}: below {shown_bound(self.bound)} at {CONFIDENCE:.0%}{doubt}".replace("95%", "95 %")

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        if self.differing_windows:
            return EXIT_DIFFERENCES
        return EXIT_SOME_USERS_FAILED if self.users_failed else EXIT_DONE


def draw(total: int, windows: int, seed: int) -> list[int]:
    """`windows` of the numbers 0 to total - 1, each set of them as likely as any other, ascending."""
    return sorted(random.Random(seed).sample(range(total), min(windows, total)))


def pick(targets: Sequence[Target], drawn: Sequence[int], passed: int) -> list[Target]:
    """Those of `targets`, the first of whose windows has the number `passed`, that have windows among `drawn`."""
    picked = []
    numbers = iter(drawn)
    number = next((one for one in numbers if one >= passed), None)
    for target in targets:
        mine = []
        while number is not None and number < passed + target.windows:
            mine.append(number - passed)
            number = next(numbers, None)
        if mine:
            picked.append(
                Target(target.user, target.start_ms, target.end_ms, target.slices_end_ms, target.parts, tuple(mine))
            )
        passed += target.windows
    return picked


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that meet or touch become one; those of no time are left out."""
    found: list[tuple[int, int]] = []
    for from_ms, to_ms in sorted(span for span in spans if span[0] <= span[1]):
        if found and from_ms <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], to_ms))
        else:
            found.append((from_ms, to_ms))
    return found
