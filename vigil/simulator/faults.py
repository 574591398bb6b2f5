"""What can go wrong on the way to the exchange and back, by seeded chance or by rule.

Kinds (the exchange's or its proxies' known bad days, and some it has not had yet):

| kind | the client meets |
|---|---|
| `429` | status 429 without having spent its weight; with `storm_seconds`, everybody for so long |
| `500` | status 500, body `null` |
| `502` | status 502, an nginx HTML page |
| `403` | status 403, a CloudFront HTML page |
| `422` | status 422, as if the request could not be read |
| `redirect` | status 307, to where it came from |
| `html200` | status 200, an HTML page |
| `notlist` | status 200 and a JSON object |
| `deep` | status 200 and arrays nested 100,000 deep |
| `huge` | status 200 and a page of `huge_bytes` |
| `cut` | the headers of a whole answer, half of its body, then the end of the connection |
| `overlong` | a whole answer that announces twice its length, then the end of the connection |
| `tooshort` | a whole answer that announces half its length |
| `reset` | a connection reset instead of an answer |
| `drip` | a right answer, spread over `drip_seconds` |
| `trickle` | a right answer, a byte every `trickle_seconds` |
| `hang` | nothing for `hang_seconds`, then the end of the connection |
| `duplicate` | some rows of the page twice |
| `disorder` | the rows of the page in a wrong order |
| `outside` | one more row, from outside the asked window |
| `nan` | NaN or Infinity in some rows, bare or as text |
| `numbers` | amounts as numbers, whole numbers as text |
| `stuck` | the user's first page, whatever `startTime` says |
| `hole` | the rows after the millisecond of `startTime`, as if retention had just taken that one |
| `another` | the page of another user |

Must not know HTTP: `server` performs what is drawn here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vigil.errors import UsageError

KINDS = (
    "429", "500", "502", "403", "422", "redirect", "html200", "notlist", "deep", "huge",
    "cut", "overlong", "tooshort", "reset", "drip", "trickle", "hang",
    "duplicate", "disorder", "outside", "nan", "numbers", "stuck", "hole", "another",
)  # fmt: skip
ROW_KINDS = frozenset({"duplicate", "disorder", "outside", "nan", "numbers"})
PAGE_KINDS = frozenset({"stuck", "hole", "another"})
"""Right rows, but those of another request."""

_TIME_MEMBER = re.compile(r'"time":\s*-?\d+')
_AMOUNT_MEMBER = re.compile(r'"(px|sz|startPosition|closedPnl|fee|builderFee)":\s*"([^"]*)"')
_WHOLE_MEMBER = re.compile(r'"(time|oid|tid|twapId)":\s*(-?\d+)')
NO_NUMBERS = (
    ("px", "NaN"), ("sz", "Infinity"), ("fee", '"NaN"'), ("closedPnl", '"-Infinity"'), ("time", "-Infinity"),
)  # fmt: skip
"""What `nan` puts into the rows it spoils, one after the other."""


@dataclass(frozen=True, slots=True)
class UserFault:
    """A rule for one user: always this kind, or only for the first `first_requests`."""

    kind: str
    first_requests: int | None = None


@dataclass(frozen=True)
class FaultPlan:
    """Chances per request and kind, and rules per user; a rule goes before chance."""

    chances: Mapping[str, float] = field(default_factory=dict)
    per_user: Mapping[str, UserFault] = field(default_factory=dict)
    seed: int = 0
    storm_seconds: float = 0.0  # how long a drawn 429 lasts, for everybody; 0: this one request
    drip_seconds: float = 40.0  # how long a dripping answer takes
    hang_seconds: float = 3_600.0  # how long a hanging request is held
    trickle_seconds: float = 1.0  # between two bytes of a trickling answer
    huge_bytes: int = 100 * 1024 * 1024  # size of a huge page

    def __post_init__(self) -> None:
        for kind in [*self.chances, *(rule.kind for rule in self.per_user.values())]:
            if kind not in KINDS:
                raise UsageError(f"there is no fault {kind!r}", hint=f"known: {', '.join(KINDS)}")
        if any(not 0 <= chance <= 1 for chance in self.chances.values()) or sum(self.chances.values()) > 1:
            raise UsageError("fault chances must lie between 0 and 1, and add up to at most 1")

    @classmethod
    def parse(
        cls,
        texts: Iterable[str],
        *,
        seed: int = 0,
        storm_seconds: float = 0.0,
        drip_seconds: float = 40.0,
        hang_seconds: float = 3_600.0,
    ) -> FaultPlan:
        """Read `KIND=CHANCE`, `ADDRESS=KIND` (always) and `ADDRESS=KIND:N` (the first N requests).

        Several may stand in one text, separated by commas. Raises: UsageError.
        """
        chances: dict[str, float] = {}
        per_user: dict[str, UserFault] = {}
        for text in (part.strip() for whole in texts for part in whole.split(",") if part.strip()):
            name, equals, value = text.partition("=")
            try:
                if name.lower().startswith("0x"):
                    kind, _, first = value.partition(":")
                    per_user[name.lower()] = UserFault(kind, int(first) if first else None)
                else:
                    chances[name] = float(value)
            except ValueError:
                equals = ""
            if not equals:
                raise UsageError(
                    f"can't read the fault {text!r}",
                    hint="write KIND=CHANCE as in 429=0.02, ADDRESS=KIND or ADDRESS=KIND:FIRST_REQUESTS",
                )
        return cls(chances, per_user, seed, storm_seconds, drip_seconds, hang_seconds)


class FaultDice:
    """Draws the fault of each request, in the order of arrival."""

    def __init__(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._requests: dict[str, int] = {}
        self._storm_until = float("-inf")
        self._rules = {address.lower(): rule for address, rule in plan.per_user.items()}

    def draw(self, user: str, now: float) -> str | None:
        """The kind of fault this request meets, or None; `now` in seconds."""
        rule = self._rules.get(user)
        if rule is not None:
            seen = self._requests[user] = self._requests.get(user, 0) + 1
            if rule.first_requests is None or seen <= rule.first_requests:
                return rule.kind
        if now < self._storm_until:
            return "429"
        kind = self._chance()
        if kind == "429":
            self._storm_until = now + self._plan.storm_seconds
        return kind

    def _chance(self) -> str | None:
        if not self._plan.chances:
            return None
        drawn = self._random.random()
        for kind, chance in self._plan.chances.items():
            if drawn < chance:
                return kind
            drawn -= chance
        return None

    def spoil(self, kind: str, rows: list[str], start_ms: int, end_ms: int | None) -> list[str]:
        """The page with a row fault applied; unchanged where it can't be (too few rows)."""
        if not rows:
            return rows
        if kind == "duplicate":
            repeated = {self._random.randrange(len(rows)) for _ in range(3)}
            return [row for at, one in enumerate(rows) for row in [one] * (2 if at in repeated else 1)]
        if kind == "disorder":
            shuffled = rows[:]
            self._random.shuffle(shuffled)
            return shuffled
        if kind == "nan":
            return self._without_numbers(rows)
        if kind == "numbers":
            return [_WHOLE_MEMBER.sub(r'"\1":"\2"', _AMOUNT_MEMBER.sub(r'"\1":\2', row)) for row in rows]
        time_ms = end_ms + 1 if end_ms is not None else start_ms - 1
        outside = _TIME_MEMBER.sub(f'"time":{time_ms}', rows[0])
        return [*rows, outside] if end_ms is not None else [outside, *rows]

    def _without_numbers(self, rows: list[str]) -> list[str]:
        spoiled = rows[:]
        places = self._random.sample(range(len(rows)), min(len(rows), len(NO_NUMBERS)))
        for place, (member, text) in zip(places, NO_NUMBERS, strict=False):
            spoiled[place] = re.sub(rf'"{member}":\s*("[^"]*"|-?\d+)', f'"{member}":{text}', rows[place])
        return spoiled
