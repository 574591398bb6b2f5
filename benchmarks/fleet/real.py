"""The fleet with vigil's own limiter, pager and walk, in virtual time, against a model of the exchange.

A page holds the first and the last of its rows only: the walk looks at no others, and two million users'
fills need not be made. `Page.rows` tells how many there are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from benchmarks.fleet.orders import Order
from benchmarks.fleet.outcome import BUDGET, PERIOD, READERS, Outcome, round_trip
from benchmarks.fleet.population import Users
from tests.kit.server_model import Latency, ServerModel, TooManyRequests, every_window
from tests.kit.virtual_time import run_virtual
from vigil.claims import Claim
from vigil.cursor import PAGE_ROWS
from vigil.fills import Fill, Page
from vigil.limiter import BASE_WEIGHT, WeightLimiter
from vigil.pager import read_user
from vigil.store import Chunk

END_MS = 2**40
_FILL = Fill(
    coin="BTC",
    px="1",
    sz="1",
    side="B",
    time=0,
    start_position="0",
    dir="Open Long",
    closed_pnl="0",
    hash="0x",
    oid=1,
    crossed=True,
    fee="0",
    tid=1,
)


def fill_at(ms: int) -> Fill:
    return msgspec.structs.replace(_FILL, time=ms, tid=ms)


def page_from(rows: int, start_ms: int) -> Page:
    """The answer to a request from `start_ms` on, of a user whose fills are at 0, 1, ... `rows - 1` ms."""
    got = max(0, min(rows - start_ms, PAGE_ROWS))
    ends = sorted({start_ms, start_ms + got - 1}) if got else []
    return Page(map(fill_at, ends), rows=got)


class _Lane:
    """One address: its limiter, and the exchange's accounts of it."""

    def __init__(self) -> None:
        self.limiter = WeightLimiter(BUDGET, PERIOD)
        self.server = ServerModel(every_window(BUDGET, PERIOD))
        self.requests = 0

    async def fetch(self, rows: int, start_ms: int, seconds: float) -> Page:
        page = page_from(rows, start_ms)
        trip = Latency.split(seconds, 0.3, 0.4)
        while True:
            async with self.limiter.request() as ticket:
                try:
                    ticket.weight = await self.server.ask(page.rows, trip)
                    ticket.answered = True
                    self.requests += 1
                    return page
                except TooManyRequests:
                    ticket.weight = BASE_WEIGHT
                    self.limiter.pause(ticket)


def simulate(
    users: Users,
    order: Order,
    addresses: int,
    *,
    readers: int = READERS,
    latency: Callable[[int, int], float] = round_trip,
) -> Outcome:
    outcome = Outcome([0.0] * addresses)

    async def read(lane: _Lane, number: int, first: int | None) -> None:
        loop, user = asyncio.get_running_loop(), first
        while user is not None:
            rows = users.rows(user, loop.time() / 3600)
            outcome.users += 1
            outcome.saved += rows
            await read_one(lane, number, user, rows)
            user = order.next(loop.time() / 3600)

    async def read_one(lane: _Lane, number: int, user: int, rows: int) -> None:
        pages = 0

        async def fetch_page(address: str, start_ms: int, last_ms: int) -> Page:
            nonlocal pages
            pages += 1
            page = await lane.fetch(rows, start_ms, latency(user, pages - 1))
            outcome.ends[number] = asyncio.get_running_loop().time()
            return page

        kept: list[Chunk] = []

        async def put(chunk: Chunk) -> None:
            kept.append(chunk)

        error = await read_user(Claim(f"0x{user:040x}", 0, END_MS), fetch_page, put, Counter())
        assert error is None
        assert kept[-1].done

    async def fleet() -> list[_Lane]:
        lanes = [_Lane() for _ in range(addresses)]
        async with asyncio.TaskGroup() as group:
            for _ in range(readers):  # all addresses start at once, so their claims take turns
                for number, lane in enumerate(lanes):
                    group.create_task(read(lane, number, order.next(0.0)))
        return lanes

    lanes = run_virtual(fleet())
    outcome.requests = sum(lane.requests for lane in lanes)
    outcome.weight = sum(lane.limiter.weight_spent for lane in lanes)
    outcome.refused = sum(lane.server.refused for lane in lanes)
    return outcome
