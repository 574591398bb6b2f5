"""What can go wrong on the way to the exchange and back, by seeded chance or by rule.

Kinds (the exchange's or its proxies' known bad days, and some it has not had yet):

| kind | the client meets |
|---|---|
| `429` | status 429 without having spent its weight; with `storm_seconds`, everybody for so long |
| `500` | status 500, body `null` |
| `502` | status 502, an nginx HTML page |
| `403` | status 403, a CloudFront HTML page |
| `html200` | status 200, an HTML page |
| `cut` | the headers of a whole answer, half of its body, then the end of the connection |
| `reset` | a connection reset instead of an answer |
| `drip` | a right answer, spread over `drip_seconds` |
| `hang` | nothing for `hang_seconds`, then the end of the connection |
| `notlist` | status 200 and a JSON object |
| `duplicate` | some rows of the page twice |
| `disorder` | the rows of the page in a wrong order |
| `outside` | one more row, from outside the asked window |

Must not know HTTP: `server` performs what is drawn here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vigil.errors import UsageError

KINDS = (
    "429", "500", "502", "403", "html200", "cut", "reset", "drip", "hang",
    "notlist", "duplicate", "disorder", "outside",
)  # fmt: skip
ROW_KINDS = frozenset({"duplicate", "disorder", "outside"})

_TIME_MEMBER = re.compile(r'"time":\s*-?\d+')


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
        time_ms = end_ms + 1 if end_ms is not None else start_ms - 1
        outside = _TIME_MEMBER.sub(f'"time":{time_ms}', rows[0])
        return [*rows, outside] if end_ms is not None else [outside, *rows]
