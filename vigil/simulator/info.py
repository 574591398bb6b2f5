"""The desk that answers POST /info: one request in, charged, delayed, spoiled or answered.

The order is the exchange's: a body is read, the arrival is charged (or refused with 429), then
the request is understood (or refused with 422), worked on, and its answer charged. A request
met by a fault is charged as if it had been served: who under-counts failed requests gets 429s.
Only a *drawn* 429 is free. Must not know populations; rows come from `exchange` as text.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aiohttp import web

from . import wire
from .config import SimulatorConfig
from .exchange import Exchange
from .faults import PAGE_KINDS, ROW_KINDS, FaultDice
from .weights import ARRIVAL_WEIGHT, WeightMeter, answer_weight

# Charges kept for tests: some hours of a spent budget.
_KEPT_CHARGES = 100_000
_UNLIMITED_WEIGHT = 2**62
_RATE_LIMIT = "userRateLimit"


@dataclass
class Stats:
    """What the simulator has done so far, POST /info only."""

    requests: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    # As announced: a cut answer counts as 200; 444 (nginx's number) where nothing was sent at all.
    by_status: Counter[str] = field(default_factory=Counter)
    weight_spent: int = 0
    weight_by_address: Counter[str] = field(default_factory=Counter)
    throttled: int = 0  # 429s for weight; drawn ones are under `faults`
    rows_served: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class InfoDesk:
    """Answers POST /info out of an exchange; keeps the accounts and the statistics."""

    def __init__(self, config: SimulatorConfig, exchange: Exchange, now_ms: Callable[[], int]) -> None:
        self._config, self._exchange, self._now_ms = config, exchange, now_ms
        self.stats = Stats()
        self.charges: deque[tuple[float, int]] = deque(maxlen=_KEPT_CHARGES)  # (monotonic seconds, weight)
        budget = config.weight_per_minute or _UNLIMITED_WEIGHT
        self._meter = WeightMeter(config.window_model, budget, config.period_seconds)
        self._dice = FaultDice(config.faults)
        self._latency = random.Random(config.seed)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler of POST /info."""
        answer = await self._answer(request)
        self.stats.by_status[str(answer.status)] += 1
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        remote = request.remote or "?"
        self.stats.requests += 1
        try:
            asked = _understood(body)
        except wire.Malformed as reason:
            asked, refusal = None, str(reason)
        self.stats.by_type[asked.type if asked else "malformed"] += 1
        fault = self._dice.draw(asked.user, time.monotonic()) if asked else None
        if fault == "429":
            self.stats.faults[fault] += 1
            return wire.canned(fault, self._config.retry_after)
        if not self._meter.arrive(remote, time.monotonic()):
            self.stats.throttled += 1
            return wire.canned("429", self._config.retry_after)
        self._record_charge(remote, ARRIVAL_WEIGHT)
        if asked is None:
            return web.Response(status=422, text=refusal)
        try:
            await self._wait()
        finally:  # also when the client went away: the exchange has done the work
            right = self._rows(asked)
            rows = self._spoiled(fault, asked, right)
            self._settle(remote, len(rows))
        if asked.type == _RATE_LIMIT and fault in ROW_KINDS:
            fault = None  # it has no rows to spoil
        if fault is not None:
            self.stats.faults[fault] += rows != right or fault not in ROW_KINDS | PAGE_KINDS
            return await self._perform(fault, request, asked, rows)
        self.stats.rows_served += len(rows)
        return self._whole(request, asked, rows)

    def _whole(self, request: web.Request, asked: wire.InfoRequest, rows: list[str]) -> web.Response:
        """The right answer."""
        return self._rate_limit(asked.user) if asked.type == _RATE_LIMIT else wire.page(request, rows)

    def _rate_limit(self, user: str) -> web.Response:
        """The answer to `userRateLimit`."""
        volume = self._exchange.lifetime_volume(user, self._now_ms())
        return web.json_response({"cumVlm": f"{volume:f}", "nRequestsUsed": 1, "nRequestsCap": 10_000})

    def _rows(self, asked: wire.InfoRequest) -> list[str]:
        if asked.type == _RATE_LIMIT:
            return []
        if asked.type == "userFills":
            return self._exchange.newest_fills(asked.user, self._now_ms())
        if asked.type == "userTwapSliceFillsByTime":
            return self._exchange.twap_slices_by_time(asked.user, asked.start_ms, asked.end_ms)
        return self._exchange.fills_by_time(asked.user, asked.start_ms, asked.end_ms, self._now_ms())

    def _spoiled(self, fault: str | None, asked: wire.InfoRequest, right: list[str]) -> list[str]:
        """The rows to send; unchanged by faults that have nothing to do with rows."""
        if fault in ROW_KINDS:
            return self._dice.spoil(fault, right, asked.start_ms, asked.end_ms)
        if fault not in PAGE_KINDS or asked.type != "userFillsByTime":
            return right
        user, start_ms, end_ms, now_ms = asked.user, asked.start_ms, asked.end_ms, self._now_ms()
        if fault == "another":
            return self._exchange.fills_of_another(user, start_ms, end_ms, now_ms)
        return self._exchange.fills_by_time(user, start_ms + 1 if fault == "hole" else 0, end_ms, now_ms)

    async def _perform(
        self, fault: str, request: web.Request, asked: wire.InfoRequest, rows: list[str]
    ) -> web.StreamResponse:
        plan = self._config.faults
        if fault in wire.CANNED:
            return wire.canned(fault)
        if fault == "redirect":
            return wire.redirect(request)
        if fault == "huge":
            return await wire.flood(request, rows, plan.huge_bytes)
        if fault == "hang":
            return await wire.hang(request, plan.hang_seconds)
        if fault == "reset":
            return wire.reset(request)
        answer = self._whole(request, asked, rows)
        if fault in wire.BROKEN:
            return await wire.BROKEN[fault](request, answer)
        if fault == "drip":
            return await wire.drip(request, answer, plan.drip_seconds)
        if fault == "trickle":
            return await wire.trickle(request, answer, plan.trickle_seconds)
        self.stats.rows_served += len(rows)
        return answer

    async def _wait(self) -> None:
        low, high = self._config.latency_seconds
        if high:
            await asyncio.sleep(self._latency.uniform(low, high))

    def _settle(self, remote: str, row_count: int) -> None:
        weight = answer_weight(row_count, rounding=self._config.weight_rounding)
        if weight:
            self._meter.settle(remote, time.monotonic(), weight)
            self._record_charge(remote, weight)

    def _record_charge(self, remote: str, weight: int) -> None:
        self.stats.weight_spent += weight
        self.stats.weight_by_address[remote] += weight
        self.charges.append((time.monotonic(), weight))


def _understood(body: bytes) -> wire.InfoRequest:
    """What is asked. `userRateLimit` has the members of `userFills`: a user, and no window. Raises: Malformed."""
    name, alike = f'"{_RATE_LIMIT}"'.encode(), b'"userFills"'
    if body.count(name) != 1:
        return wire.parse(body)
    return replace(wire.parse(body.replace(name, alike)), type=_RATE_LIMIT)
