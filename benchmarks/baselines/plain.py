"""What people write by hand: the plan's client, and forward paging with `last + 1`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter

from benchmarks.baselines import MINUTE, PAGE_ROWS, Keep, Place, Row, Users

PLAN_REQUESTS_A_MINUTE = 40
PLAN_MOST_ROWS = 10_000
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds of a back-off that doubles."""
BUDGET, BASE_WEIGHT, ROWS_PER_WEIGHT = 1200, 20, 20


class Refused(Exception):
    """A status that is not 200."""


async def plan(place: Place, users: Users, keep: Keep) -> None:
    """Evenly spaced requests, one at a time, backward from the window's end.

    It takes a page for the newest rows up to `end` and goes on before the oldest of them; the exchange
    serves the earliest, so nothing is there. Any refusal ends the script, which is started again after one
    interval with the first user that is not completed.
    """
    pace = place.seconds(MINUTE / PLAN_REQUESTS_A_MINUTE)
    left = list(reversed(users))
    async with aiohttp.ClientSession() as session:
        while left:
            try:
                await _plan_user(session, place, left[-1], keep, pace)
                left.pop()
            except Refused:
                await asyncio.sleep(pace)


async def _plan_user(session: aiohttp.ClientSession, place: Place, user: str, keep: Keep, pace: float) -> None:
    end_ms, total = place.end_ms, 0
    while total < PLAN_MOST_ROWS:
        started = time.monotonic()
        rows = await _ask(session, place.url, user, place.start_ms, end_ms)
        await asyncio.sleep(max(0.0, pace - (time.monotonic() - started)))
        keep(user, rows)
        total += len(rows)
        oldest = min((row["time"] for row in rows), default=place.start_ms)
        if oldest <= place.start_ms or len(rows) < PAGE_ROWS:
            return
        end_ms = oldest - 1


async def last_plus_one(place: Place, users: Users, keep: Keep) -> None:
    """Forward, each page from the last row's time + 1; what a row of that millisecond was left out is lost."""
    limiter = AsyncLimiter(BUDGET, place.period_seconds)
    async with aiohttp.ClientSession() as session:
        for user in users:
            start_ms: int | None = place.start_ms
            while start_ms is not None and start_ms <= place.end_ms:
                rows = await _patiently(session, place, user, start_ms, limiter)
                keep(user, rows)
                start_ms = next_start(rows)


async def _patiently(
    session: aiohttp.ClientSession, place: Place, user: str, start_ms: int, limiter: AsyncLimiter
) -> list[Row]:
    for pause in pauses(place):
        await limiter.acquire(BASE_WEIGHT)
        try:
            rows = await _ask(session, place.url, user, start_ms, place.end_ms)
        except Refused:
            await asyncio.sleep(pause)
            continue
        if rows:
            await limiter.acquire(-(-len(rows) // ROWS_PER_WEIGHT))
        return rows
    raise AssertionError("unreachable")


def next_start(rows: list[Row]) -> int | None:
    """Where `last + 1` goes on; None after a page that is not full."""
    return int(rows[-1]["time"]) + 1 if len(rows) >= PAGE_ROWS else None


def pauses(place: Place) -> Iterator[float]:
    """Of a back-off, without end."""
    pause = FIRST_PAUSE
    while True:
        yield place.seconds(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _ask(session: aiohttp.ClientSession, url: str, user: str, start_ms: int, end_ms: int) -> list[Row]:
    request = {"type": "userFillsByTime", "user": user, "startTime": start_ms, "endTime": end_ms}
    async with session.post(url, json=request) as response:
        if response.status != 200:
            raise Refused(response.status)
        rows: list[dict[str, Any]] = await response.json()
    return list(rows)
