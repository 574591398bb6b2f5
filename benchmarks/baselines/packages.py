"""Clients that install from the package index: the official SDK and ccxt; in the extra `bench`.

Neither pages, and neither waits after a 429, so both are given the usual loop around them: forward with
`last + 1`, and a back-off that doubles. Both ask the exchange for its markets first, which a rehearsal has none
of: they are given empty ones.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from typing import Any

from benchmarks.baselines import Keep, Place, Row, Users
from benchmarks.baselines.plain import next_start, pauses

Ask = Callable[[str, int], list[Row]]


async def official_sdk(place: Place, users: Users, keep: Keep) -> None:
    """`hyperliquid-python-sdk`: no limiter of its own. Raises: ModuleNotFoundError where it is not installed."""
    info = importlib.import_module("hyperliquid.info")
    errors = importlib.import_module("hyperliquid.utils.error")
    no_meta: dict[str, Any] = {"universe": []}
    client = info.Info(place.url.removesuffix("/info"), True, no_meta, {"universe": [], "tokens": []})

    def ask(user: str, start_ms: int) -> list[Row]:
        rows: list[Row] = client.user_fills_by_time(user, start_ms, place.end_ms)
        return rows

    await asyncio.to_thread(_loop, place, users, keep, ask, (errors.ClientError, errors.ServerError))


async def ccxt_client(place: Place, users: Users, keep: Keep) -> None:
    """`ccxt`: a limiter that takes every answer to cost the same. Raises: ModuleNotFoundError, as above."""
    ccxt = importlib.import_module("ccxt")
    client = ccxt.hyperliquid()
    client.urls["api"]["public"] = place.url.removesuffix("/info")
    client.set_markets([])
    client.rateLimit = place.seconds(client.rateLimit)

    def ask(user: str, start_ms: int) -> list[Row]:
        trades = client.fetch_my_trades(None, start_ms, None, {"user": user, "until": place.end_ms})
        return [trade["info"] for trade in trades]

    await asyncio.to_thread(_loop, place, users, keep, ask, (ccxt.NetworkError,))


def _loop(place: Place, users: Users, keep: Keep, ask: Ask, refusals: tuple[type[Exception], ...]) -> None:
    for user in users:
        start_ms: int | None = place.start_ms
        while start_ms is not None and start_ms <= place.end_ms:
            rows = _patiently(place, lambda start=start_ms, user=user: ask(user, start), refusals)  # type: ignore[misc]
            keep(user, rows)
            start_ms = next_start(rows)


def _patiently(place: Place, ask: Callable[[], list[Row]], refusals: tuple[type[Exception], ...]) -> list[Row]:
    for pause in pauses(place):
        try:
            return ask()
        except refusals:
            time.sleep(pause)
    raise AssertionError("unreachable")
