"""One user's positions, and the fills that moved them, written as the exchange writes them.

A `Book` is fed with orders in execution order and appends one JSON object (text, keys in the
wire's order) per fill. The position chain is right by construction: `startPosition` is read
from the book and the signed size is booked in the same step. Text is built directly, without
dicts or Decimals, because a run over 10,000 users wants some 150,000 fills a second.

Must not know when or why a user trades (`life`), nor addresses, retention or HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .coins import COINS, DUST_COINS, number_text, position_text

ZERO_HASH = "0x" + "0" * 64
# Fee rates in 1/100,000 of the notional.
TAKER_RATE = 45
BUILDER_RATE = 10
_RATE_UNIT = 100_000
_MICRO = 10**6
_SPOT_UNIT = 10**8

_COIN_INDEX = {coin.name: index for index, coin in enumerate(COINS)}

# (price in steps, size in steps, tid)
Execution = tuple[int, int, int]


class Order(NamedTuple):
    """What all fills of one order have in common."""

    time_ms: int
    coin: int  # index into COINS
    buy: bool
    crossed: bool
    hash: str
    oid: int
    rate: int  # of 1/100,000; negative is a rebate
    extras: str = ""  # more JSON members, each with a leading comma
    builder: bool = False
    direction: str = ""  # replaces the computed `dir` (liquidations)
    dated: bool = False  # as rows of early 2023: no tid, feeToken, twapId


class Book:
    """Positions per coin in size steps (spot: 1e-8), and the rows written so far."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.rows: list[str] = []
        self.positions = [0] * len(COINS)
        self._entries = [0] * len(COINS)  # average entry price of the open position, in steps

    def execute(self, order: Order, executions: Sequence[Execution]) -> None:
        """Book one order's executions, which all happen in one millisecond."""
        if COINS[order.coin].base_token:
            self._spot(order, executions)
        else:
            self._perp(order, executions)
        self.times.extend([order.time_ms] * len(executions))

    def _perp(self, order: Order, executions: Sequence[Execution]) -> None:
        time_ms, coin_index, buy, crossed, hash_text, oid, rate, extras, builder, direction, dated = order
        coin = COINS[coin_index]
        px_unit, sz_unit, append = coin.px_unit, coin.sz_unit, self.rows.append
        head = f'{{"coin":"{coin.name}","px":"'
        middle = f'","side":"{"B" if buy else "A"}","time":{time_ms},"startPosition":"'
        tail = f'","hash":"{hash_text}","oid":{oid},"crossed":{"true" if crossed else "false"},"fee":"'
        end = extras + ("}" if dated else f',"feeToken":"{coin.fee_token}","twapId":null}}')
        position, entry = self.positions[coin_index], self._entries[coin_index]
        for px, sz, tid in executions:
            start = position
            position = start + sz if buy else start - sz
            pnl = 0
            if start >= 0 if buy else start <= 0:
                entry = (entry * abs(start) + px * sz) // abs(position)
                name = "Open Long" if buy else "Open Short"
            elif position <= 0 if buy else position >= 0:
                pnl = (entry - px if buy else px - entry) * sz
                name = "Close Short" if buy else "Close Long"
            else:
                pnl = (px - entry) * start
                entry = px
                name = "Short > Long" if buy else "Long > Short"
            notional = px * sz
            fee = number_text(notional * rate // _RATE_UNIT, _MICRO)
            trade = "" if dated else f',"tid":{tid}'
            if builder:
                trade += f',"builderFee":"{number_text(notional * BUILDER_RATE // _RATE_UNIT, _MICRO)}"'
            append(
                f'{head}{px / px_unit}","sz":"{number_text(sz, sz_unit)}{middle}'
                f'{position_text(start, sz_unit)}","dir":"{direction or name}","closedPnl":"'
                f'{number_text(pnl, _MICRO) if pnl else "0.0"}{tail}{fee}"{trade}{end}'
            )
        self.positions[coin_index], self._entries[coin_index] = position, entry

    def _spot(self, order: Order, executions: Sequence[Execution]) -> None:
        """Buyers pay the fee in what they receive, sellers in USDC; a short balance is topped up first.

        That top-up stands for a transfer: it breaks the chain, as transfers do on the real exchange.
        """
        coin = COINS[order.coin]
        to_balance = _SPOT_UNIT // coin.sz_unit
        for px, sz, tid in executions:
            balance, size = self.positions[order.coin], sz * to_balance
            if not order.buy and balance < size:
                balance += 5 * size
            if order.buy:
                fee = size * max(order.rate, 0) // _RATE_UNIT
                self.positions[order.coin] = balance + size - fee
                token, pnl, name = coin.base_token, 0, "Buy"
            else:
                fee = px * sz * order.rate // _RATE_UNIT
                self.positions[order.coin] = balance - size
                token, pnl, name = "USDC", (px - coin.typical_px) * sz, "Sell"
            trade = "" if order.dated else f',"tid":{tid}'
            end = "" if order.dated else f',"feeToken":"{token}","twapId":null'
            self.rows.append(
                f'{{"coin":"{coin.name}","px":"{number_text(px, coin.px_unit)}",'
                f'"sz":"{number_text(sz, coin.sz_unit)}","side":"{"B" if order.buy else "A"}",'
                f'"time":{order.time_ms},"startPosition":"{position_text(balance, _SPOT_UNIT)}",'
                f'"dir":"{name}","closedPnl":"{number_text(pnl, _SPOT_UNIT)}","hash":"{order.hash}",'
                f'"oid":{order.oid},"crossed":{"true" if order.crossed else "false"},'
                f'"fee":"{number_text(fee, _SPOT_UNIT)}"{trade}{order.extras}{end}}}'
            )

    def convert_dust(self, time_ms: int, first_oid: int, words: Sequence[int]) -> None:
        """Book the exchange's sweep of small balances: one fill per coin, all with tid 0 and no hash."""
        for number, word in enumerate(words):
            name = DUST_COINS[number % len(DUST_COINS)]
            coin = COINS[_COIN_INDEX[name]]
            self.positions[_COIN_INDEX[name]] = 0
            dust = f"{(1 + word % 99_999) / 10**10:.10f}".rstrip("0")
            self.rows.append(
                f'{{"coin":"{name}","px":"{number_text(coin.typical_px, coin.px_unit)}","sz":"{dust}",'
                f'"side":"A","time":{time_ms},"startPosition":"{dust}","dir":"Spot Dust Conversion",'
                f'"closedPnl":"0.0","hash":"{ZERO_HASH}","oid":{first_oid + number},"crossed":true,'
                f'"fee":"0.0","tid":0,"feeToken":"USDC","twapId":null}}'
            )
            self.times.append(time_ms)

    def settle(self, time_ms: int, oid: int, tid: int) -> None:
        """Book an outcome market that ended worthless: a coin and a `dir` of an open set, price zero."""
        self.rows.append(
            f'{{"coin":"#7501","px":"0.0","sz":"120.0","side":"A","time":{time_ms},'
            f'"startPosition":"120.0","dir":"Settlement","closedPnl":"-54.0","hash":"{ZERO_HASH}",'
            f'"oid":{oid},"crossed":true,"fee":"0.0","tid":{tid},"feeToken":"USDH","twapId":null}}'
        )
        self.times.append(time_ms)
