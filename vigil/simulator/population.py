"""A seeded population of any size: each user's history is made when it is asked for.

Ten million users cost nothing until asked; recently asked histories are kept (bounded by rows),
because the pages of one user are asked in a row. The same seed gives the same population, on
every machine. Must not know retention, pages, faults or HTTP: this is what *happened*, not
what the exchange still shows of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .addresses import AddressBook
from .life import Life, draw

# Kept histories: about 0.4 kB a row, so this is some 80 MB at the most.
CACHED_ROWS = 200_000
CACHED_USERS = 512
HOUR_MS = 3_600_000

# (share of users, fewest fills, most fills); log-uniform inside a class, times `scale`.
LENGTH_CLASSES: tuple[tuple[float, int, int], ...] = (
    (0.15, 0, 0),
    (0.55, 1, 50),
    (0.20, 50, 500),
    (0.08, 500, 3_000),
    (0.02, 3_000, 14_000),
)


@dataclass(frozen=True, slots=True)
class History:
    """Fills in execution order: `times` in ms (ascending) and the JSON text of each row."""

    times: list[int]
    rows: list[str]

    def decoded(self) -> list[dict[str, Any]]:
        """The rows as the wire's dicts."""
        return [msgspec.json.decode(row) for row in self.rows]


class Population:
    """`size` users with addresses and histories, all derived from `seed`.

    `scale` multiplies the drawn lengths; `lengths` sets the number of fills of some users;
    `saturated` users have `saturated_rows` fills in one millisecond. A share `moving` of the users
    goes on trading after `start_now_ms`: the k-th new fill is at `start_now_ms + k / rate`.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        scale: float = 1.0,
        lengths: Mapping[int, int] | None = None,
        saturated: Collection[int] = (),
        saturated_rows: int = 2_100,
        moving: float = 0.0,
        moving_fills_per_hour: float = 0.0,
        start_now_ms: int = 0,
    ) -> None:
        self.size = size
        self._seed, self._scale = seed, scale
        self._lengths = dict(lengths or {})
        self._saturated, self._saturated_rows = frozenset(saturated), saturated_rows
        self._moving, self._fills_per_hour, self._start_now_ms = moving, moving_fills_per_hour, start_now_ms
        self._addresses = AddressBook(seed, size)
        self._cache: OrderedDict[int, Life] = OrderedDict()
        self._cached_rows = 0

    def address(self, index: int) -> str:
        """The lower-case address of user `index`."""
        return self._addresses.address(index)

    def addresses(self, offset: int = 0, limit: int | None = None) -> list[str]:
        """The addresses of users `offset` to `offset + limit`."""
        end = self.size if limit is None else min(self.size, offset + limit)
        return [self._addresses.address(index) for index in range(offset, end)]

    def index(self, address: str) -> int | None:
        """The user behind an address, or None for a stranger."""
        return self._addresses.index(address)

    def length(self, index: int) -> int:
        """How many fills user `index` has before the simulator starts; makes no history."""
        if index in self._saturated:
            return max(self._lengths.get(index, 0), self._saturated_rows * 3 // 2)
        if index in self._lengths:
            return self._lengths[index]
        rng = draw(self._seed, "length", index)
        chance = rng.random()
        for share, fewest, most in LENGTH_CLASSES:
            if chance < share:
                if not most:
                    return 0
                drawn: float = fewest * (most / fewest) ** rng.random()
                return max(1, round(drawn * self._scale))
            chance -= share
        return 0

    def is_moving(self, index: int) -> bool:
        """Whether the user keeps trading while the simulator runs."""
        if not self._moving or not self._fills_per_hour:
            return False
        return draw(self._seed, "moving", index).random() < self._moving

    def moved_fills(self, index: int, now_ms: int) -> int:
        """How many fills a user has made since the simulator's start."""
        if now_ms <= self._start_now_ms or not self.is_moving(index):
            return 0
        return int((now_ms - self._start_now_ms) * self._fills_per_hour / HOUR_MS)

    def history(self, index: int, now_ms: int = 0) -> History:
        """All fills of a user up to now; `now_ms` matters for moving users only."""
        life = self._life(index)
        static = life.static_rows
        moved = self.moved_fills(index, now_ms)
        book = life.book
        for number in range(len(book.rows) - static + 1, moved + 1):
            life.trade_on(self._start_now_ms + int(number * HOUR_MS / self._fills_per_hour))
            self._cached_rows += 1
        total = static + moved
        if total < len(book.rows):  # asked about an earlier moment than before
            return History(book.times[:total], book.rows[:total])
        return History(book.times, book.rows)

    def fills(self, index: int) -> list[dict[str, Any]]:
        """The user's static history as wire dicts, oldest first."""
        return self.history(index).decoded()

    def _life(self, index: int) -> Life:
        life = self._cache.get(index)
        if life is not None:
            self._cache.move_to_end(index)
            return life
        length = self.length(index)
        burst = self._saturated_rows if index in self._saturated else 0
        partner = index ^ 1
        partner_length = self.length(partner) if partner < self.size else 0
        life = Life(self._seed, index, self.address(index), length, partner_length, burst)
        self._cache[index] = life
        self._cached_rows += length
        while len(self._cache) > 1 and (self._cached_rows > CACHED_ROWS or len(self._cache) > CACHED_USERS):
            _, dropped = self._cache.popitem(last=False)
            self._cached_rows -= len(dropped.book.rows)
        return life
