"""When and what one user trades: a script drawn from seeds, performed on a `Book`.

Users 2k and 2k+1 are a pair and trade with one another now and then. What they share (the
span of their activity, their common trades) is drawn from the *pair's* seed, so that either
side can be made alone and still agrees with the other. Everything else comes from the user's
own seed. A third stream drives what a moving user trades while the simulator runs; its k-th
fill depends on nothing but k.

Random bits are drawn in bulk as 64-bit words and cut up by shifts: one call per history
instead of ten per fill. Must not know retention, pages or HTTP.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from .book import TAKER_RATE, ZERO_HASH, Book, Execution, Order
from .coins import COINS, number_text

# 2023-02-01, 2023-10-01, 2025-05-01, 2025-07-27, 2026-10-25, all 00:00 UTC, in ms.
FIRST_MS = 1_675_209_600_000
OLD_ROWS_END_MS = 1_696_118_400_000  # until here rows may lack tid, and users may trade with themselves
LAST_START_MS = 1_746_057_600_000
WINDOW_END_MS = 1_753_574_400_000  # the default end of what a backfill is asked for
LAST_MS = 1_792_886_400_000
_DAY_MS = 86_400_000

# How many fills a taker's order meets, all in one millisecond; 118 is the largest group ever recorded.
_GROUPS = (
    *([1] * 90 + [2] * 50 + [3] * 34 + [4] * 24),
    *([5, 6, 7, 8, 9, 10, 11, 12] * 6 + [20] * 5 + [33] * 3 + [60, 118]),
)
_LARGEST_GROUP = 118
# A full page of the real exchange; bursts are planted around its multiples so that edges fall inside them.
_PAGE_ROWS = 2000
_MAKER_RATES = (15, 15, 15, 10, 0, -1, -3, -3)
_HASH_MIX = int.from_bytes(hashlib.sha256(b"hash").digest()) | 1
_HASH_MASK = (1 << 256) - 1
_OIDS_PER_MS = 64
# Which order is a saturated user's burst: an early one, so that it lies before the default window's end even
# for those who mostly trade after it, but not the first, so that a cursor has something behind it.
_BURST_ORDER = 2


class Trade(NamedTuple):
    """One trade between the two users of a pair."""

    coin: int
    px: int
    sz: int
    tid: int
    word: int
    even_buys: bool
    even_crosses: bool


class Step(NamedTuple):
    """One step of the script: a shared trade, or an order of the user's own with so many fills."""

    time_ms: int
    word: int
    rows: int
    trade: Trade | None


def draw(seed: int, purpose: str, number: int) -> random.Random:
    """A generator that depends on these three alone, on every machine and Python."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{number}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest))


def words_of(rng: random.Random, count: int) -> Sequence[int]:
    """`count` random 64-bit words."""
    return array("Q", rng.randbytes(8 * count))


class Span:
    """When a pair is active: mostly before the default window's end, some of it after."""

    def __init__(self, rng: random.Random, early: bool) -> None:
        self.start_ms = rng.randrange(FIRST_MS, FIRST_MS + 120 * _DAY_MS if early else LAST_START_MS)
        self.end_ms = min(self.start_ms + rng.randrange(_DAY_MS, 900 * _DAY_MS), WINDOW_END_MS - 1)
        kind = rng.random()
        self.after_share = 0.0 if kind < 0.6 else rng.uniform(0.05, 0.4) if kind < 0.92 else 0.8

    def times(self, rng: random.Random, count: int) -> list[int]:
        """`count` ascending moments of activity."""
        after, span, tail = self.after_share, self.end_ms - self.start_ms, LAST_MS - WINDOW_END_MS
        chances = [rng.random() for _ in range(count)]
        return sorted(
            WINDOW_END_MS + int(chance / after * tail)
            if chance < after
            else self.start_ms + int((chance - after) / (1 - after) * span)
            for chance in chances
        )


class Life:
    """One user's whole history, in `book`; `trade_on` lets a moving user continue it."""

    def __init__(
        self, seed: int, index: int, address: str, length: int, partner_length: int, burst_rows: int = 0
    ) -> None:
        self.book = Book()
        self.static_rows = length  # fills before the simulator starts; what follows was traded on
        self._address, self._even = address, index % 2 == 0
        self._tail = draw(seed, "tail", index)
        self._slot_ms, self._slot = 0, 0
        self._maker_oids: dict[tuple[int, bool], int] = {}
        own = draw(seed, "user", index)
        habits = own.getrandbits(64)
        self._favourites = [own.randrange(len(COINS)) for _ in range(8)]
        self._maker_rate = _MAKER_RATES[habits & 7]
        self._old_rows_lack_tid = habits >> 3 & 3 == 0
        self._names_orders = habits >> 5 & 1 == 0
        self._pays_builder = habits >> 6 & 7 == 0
        self._prices = [coin.typical_px for coin in COINS]
        if length:
            self._perform(self._script(seed, index, own, length, partner_length, burst_rows), own)

    def trade_on(self, time_ms: int) -> None:
        """Add one more fill at the end, at `time_ms`."""
        self._order(time_ms, self._tail.getrandbits(64) & ~1, words_of(self._tail, 1))

    # -- the script --------------------------------------------------------------------------

    def _script(
        self, seed: int, index: int, own: random.Random, length: int, partner_length: int, burst_rows: int
    ) -> list[Step]:
        pair = draw(seed, "pair", index // 2)
        span = Span(pair, early=index // 2 % 4 == 0)
        shared = min(length, partner_length) // 4
        trades = [self._trade(words_of(pair, 2)) for _ in range(shared)]
        steps = [
            Step(time_ms, trade.word, 1, trade) for time_ms, trade in zip(span.times(pair, shared), trades, strict=True)
        ]
        orders = self._orders(words_of(own, length - shared), length - shared, length, burst_rows)
        previous_ms = 0
        for time_ms, (word, rows) in zip(span.times(own, len(orders)), orders, strict=True):
            # Now and then two orders fall into one millisecond.
            previous_ms = previous_ms if previous_ms and word >> 36 & 15 == 0 else time_ms
            steps.append(Step(previous_ms, word, rows, None))
        steps.sort(key=itemgetter(0))
        return steps

    @staticmethod
    def _trade(words: Sequence[int]) -> Trade:
        word, tid_word = words
        number = word % len(COINS)
        coin = COINS[number]
        px = coin.typical_px + (word >> 8) % (coin.typical_px // 10)
        sz = 1 + (word >> 16) % coin.typical_sz
        return Trade(number, px, sz, tid_word >> 14 or 1, word, bool(word >> 60 & 1), bool(word >> 61 & 1))

    @staticmethod
    def _orders(words: Sequence[int], own_rows: int, length: int, burst_rows: int) -> list[tuple[int, int]]:
        """Cut `own_rows` fills into orders of (random word, number of fills)."""
        orders: list[tuple[int, int]] = []
        done = 0
        while done < own_rows:
            number = len(orders)
            word = words[number]
            rows = _GROUPS[word >> 1 & 255] if word & 1 else 1
            if number == 7 and own_rows > 40:
                word, rows = word & ~(15 << 40) | 1, 3  # every user of some size has had dust swept
            elif (done * length // own_rows) % _PAGE_ROWS > _PAGE_ROWS - _LARGEST_GROUP // 2:
                word, rows = word | 1, _LARGEST_GROUP
            if burst_rows and number <= _BURST_ORDER:
                word, rows = word | 1, burst_rows if number == _BURST_ORDER else 1
            rows = min(rows, own_rows - done)
            orders.append((word, rows))
            done += rows
        return orders

    # -- the performance ---------------------------------------------------------------------

    def _perform(self, script: list[Step], own: random.Random) -> None:
        total = sum(step.rows for step in script)
        words = words_of(own, total)
        at = 0
        for time_ms, word, rows, trade in script:
            if trade is None:
                self._order(time_ms, word, words[at : at + rows])
            else:
                self._shared(time_ms, trade)
            at += rows

    def _oid(self, time_ms: int, count: int = 1) -> int:
        """A fresh order number: grows with time, and never the same for both users of a pair."""
        self._slot = self._slot + count if time_ms == self._slot_ms else 0
        self._slot_ms = time_ms
        side = 0 if self._even else _OIDS_PER_MS // 2
        return (time_ms - FIRST_MS + _DAY_MS) * _OIDS_PER_MS + side + self._slot

    def _dated(self, time_ms: int) -> bool:
        return self._old_rows_lack_tid and time_ms < OLD_ROWS_END_MS

    def _shared(self, time_ms: int, trade: Trade) -> None:
        crossed = trade.even_crosses == self._even
        rate = TAKER_RATE if crossed else self._maker_rate
        hash_text = f"0x{trade.word * _HASH_MIX & _HASH_MASK:064x}"
        buy, dated = trade.even_buys == self._even, self._dated(time_ms)
        order = Order(time_ms, trade.coin, buy, crossed, hash_text, self._oid(time_ms), rate, dated=dated)
        self.book.execute(order, [(trade.px, trade.sz, trade.tid)])

    def _order(self, time_ms: int, word: int, words: Sequence[int]) -> None:
        rows = len(words)
        if 2 <= rows <= 3 and word >> 40 & 15 == 0:
            self.book.convert_dust(time_ms, self._oid(time_ms, rows), words)
        elif rows == 1 and word >> 52 & 511 == 0:
            self.book.settle(time_ms, self._oid(time_ms), words[0] >> 14 or 1)
        else:
            self._market_order(time_ms, word, words)

    def _market_order(self, time_ms: int, word: int, words: Sequence[int]) -> None:
        number = self._favourites[word >> 9 & 7]
        coin, position = COINS[number], self.book.positions[number]
        px = self._prices[number] = self._next_price(number, word)
        half = coin.typical_sz
        executions: list[Execution] = [(px + (w & 7), 1 + ((w >> 3 & 2047) * half >> 10), w >> 14 or 1) for w in words]
        crossed, buy, dated = bool(word & 1), bool(word >> 12 & 1), self._dated(time_ms)
        hash_text = ZERO_HASH if word >> 31 & 31 == 0 else f"0x{word * _HASH_MIX & _HASH_MASK:064x}"
        if len(words) == 2 and time_ms < OLD_ROWS_END_MS and word >> 44 & 3 == 0:
            for side in (True, False):  # both sides of one trade: allowed until late 2023
                order = Order(time_ms, number, side, side, hash_text, self._oid(time_ms), 0, dated=dated)
                self.book.execute(order, executions[:1])
            return
        direction, closing = "", position and (abs(position) > 8 * half or word >> 17 & 3 == 0)
        if closing and not coin.spot:
            buy = position < 0
            rest = abs(position) - sum(execution[1] for execution in executions[:-1])
            if rest > 0:
                executions[-1] = (executions[-1][0], rest, executions[-1][2])
                liquidated = crossed and word >> 22 & 63 == 0
                direction = f"Liquidated Cross {'Short' if buy else 'Long'}" if liquidated else ""
        oid = self._order_id(time_ms, number, buy, crossed, word)
        rate = TAKER_RATE if crossed else self._maker_rate
        extras = self._extras(word, oid, bool(direction), number_text(px, coin.px_unit))
        builder = self._pays_builder and word >> 60 & 1 == 0
        self.book.execute(
            Order(time_ms, number, buy, crossed, hash_text, oid, rate, extras, builder, direction, dated),
            executions,
        )

    def _next_price(self, number: int, word: int) -> int:
        """A random walk with small steps, pulled back to the typical price."""
        price, typical = self._prices[number], COINS[number].typical_px
        step = ((word >> 20 & 63) - 31) * typical // 4000
        return price + step + (typical - price) // 64

    def _order_id(self, time_ms: int, number: int, buy: bool, crossed: bool, word: int) -> int:
        """Resting orders are filled piece by piece: often the last maker order goes on."""
        if crossed:
            return self._oid(time_ms)
        resting = self._maker_oids.get((number, buy))
        if resting is None or word >> 26 & 3 == 0:
            resting = self._maker_oids[number, buy] = self._oid(time_ms)
        return resting

    def _extras(self, word: int, oid: int, own_liquidation: bool, px_text: str) -> str:
        extras = ""
        if self._names_orders and word >> 13 & 1:
            extras = f',"cloid":"0x{word:016x}{oid:016x}"'
        if own_liquidation or word >> 14 & 255 == 0:
            who = self._address if own_liquidation else f"0x{word * _HASH_MIX >> 64 & (1 << 160) - 1:040x}"
            members = f'"liquidatedUser":"{who}","markPx":"{px_text}","method":"market"'
            extras += f',"liquidation":{{{members}}}'
        if word >> 46 & 127 == 0:
            extras += ',"feeTrialEscrow":"0.012345"'
        return extras
