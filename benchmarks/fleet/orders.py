"""Who is claimed next: vigil's order, and others to compare it with.

vigil's (`Claims._pick`): the most urgent user, by `vigil.urgency.estimate`; when nobody is urgent, by
shard, a hash of the address, which is chance. Made-up users are in no order, so theirs is that of chance.
The estimate is repeated as the hours go by; archives are taken to end when reading starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.fleet.population import Users
from vigil.urgency import DAY_HOURS, REACH_ROWS, WEEK_HOURS, Trades, estimate

ESTIMATES = 24
"""Over the whole of the reading: more would change little, and cost time."""


@dataclass(slots=True)
class Order:
    """Users one after the other: `first` before the rest, each from its end; `renew` sorts `first` as time goes by."""

    first: list[int]
    rest: list[int]
    renew: Callable[[list[int], float], list[int]] | None = None
    renew_hours: float = 1.0
    _renewed_at: float = 0.0

    def next(self, hours: float) -> int | None:
        """Claim a user, at that time since the start."""
        if self.renew is not None and self.first and hours >= self._renewed_at + self.renew_hours:
            self.first, self._renewed_at = self.renew(self.first, hours), hours
        if self.first:
            return self.first.pop()
        return self.rest.pop() if self.rest else None


def by_chance(users: Users, least_hours: float) -> Order:
    return Order([], list(range(len(users))))


def by_length(users: Users, least_hours: float) -> Order:
    """Heavy ones first, if one knew them."""
    return Order([], sorted(range(len(users)), key=users.rows))


def light_first(users: Users, least_hours: float) -> Order:
    """The worst for those who wait at the end."""
    return Order([], sorted(range(len(users)), key=users.rows, reverse=True))


def by_urgency(users: Users, least_hours: float) -> Order:
    """vigil's own; `least_hours` is how long everything takes at the least, which sets how often it is renewed."""

    def ranked(some: Iterable[int], hours: float) -> list[int]:
        found = [(urgency_of(users, user, hours), user) for user in some]
        return [user for urgency, user in sorted(found) if urgency > 0]

    urgent = ranked((user for user in range(len(users)) if users.pace[user] > 0), 0.0)
    known = set(urgent)
    calm = [user for user in range(len(users)) if user not in known]

    def renew(first: list[int], hours: float) -> list[int]:
        left = ranked(first, hours)
        kept = set(left)
        calm.extend(user for user in first if user not in kept)
        return left

    return Order(urgent, calm, renew, renew_hours=max(least_hours / ESTIMATES, 0.1))


def urgency_of(users: Users, user: int, hours: float) -> float:
    pace, after = users.pace[user], users.after[user]
    trades = Trades(min(round(after), REACH_ROWS), round(pace * DAY_HOURS), round(pace * WEEK_HOURS))
    return estimate(trades, max(WEEK_HOURS, 1.0), hours).urgency


ORDERS: dict[str, Callable[[Users, float], Order]] = {
    "vigil": by_urgency,
    "chance": by_chance,
    "heavy first": by_length,
    "light first": light_first,
}
