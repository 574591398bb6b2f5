"""One client against one simulated exchange: what it spent, how often it was refused, what it brought home."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.baselines import Face, Keep, Place, Users, face
from benchmarks.baselines.ours import ours
from benchmarks.baselines.packages import ccxt_client, official_sdk
from benchmarks.baselines.plain import last_plus_one, plan
from vigil.simulator.truth import open_truth

Client = Callable[[Place, Users, Keep], Awaitable[None]]
CLIENTS: dict[str, Client] = {
    "vigil": ours,
    "the plan's client": plan,
    "last + 1": last_plus_one,
    "official SDK": official_sdk,
    "ccxt": ccxt_client,
}
BUDGET = 1200
START_MS, END_MS = 1_672_531_200_000, 1_753_574_399_999


@dataclass(frozen=True, slots=True)
class Standing:
    """`minutes` of the exchange; `share` of the rows within reach that were brought home; `by_tid` of those that
    a unique index on `tid` alone, as the plan has it, would have kept."""

    minutes: float
    requests: int
    weight: int
    refused: int
    share: float
    by_tid: float

    @property
    def used(self) -> float:
        """Share of the budget; a short run has the first minute's burst in it."""
        return self.weight / (BUDGET * self.minutes)


class Catch:
    """What a client brought home."""

    def __init__(self) -> None:
        self.faces: set[tuple[str, Face]] = set()
        self._by_tid: dict[int, tuple[str, Face]] = {}
        self._without_tid: set[tuple[str, Face]] = set()

    def keep(self, user: str, rows: Iterable[Any]) -> None:
        for row in map(face, rows):
            self.faces.add((user, row))
            if row.tid is None:
                self._without_tid.add((user, row))
            else:
                self._by_tid.setdefault(row.tid, (user, row))

    @property
    def kept_by_tid(self) -> set[tuple[str, Face]]:
        return self._without_tid | set(self._by_tid.values())


async def contest(client: Client, place: Place) -> Standing:
    """Let the client read everybody there is at the place. Raises: ModuleNotFoundError if it is not installed."""
    async with open_truth(place.url) as truth:
        users = [address async for address in truth.addresses()]
        before, catch = await _stats(place), Catch()
        started = time.monotonic()
        await client(place, users, catch.keep)
        seconds = time.monotonic() - started
        after = await _stats(place)
        reachable = {
            (user, face(row)) for user in users for row in await truth.rows(user, place.start_ms, place.end_ms)
        }
    spent = Counter(after)
    spent.subtract(before)
    return Standing(
        seconds / place.period_seconds,
        spent["requests"],
        spent["weight_spent"],
        spent["429s"],
        len(catch.faces & reachable) / len(reachable),
        len(catch.kept_by_tid & reachable) / len(reachable),
    )


async def _stats(place: Place) -> dict[str, int]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(place.url.removesuffix("info") + "stats", raise_for_status=True) as response,
    ):
        found: dict[str, Any] = await response.json()
    return {
        "requests": found["requests"],
        "weight_spent": found["weight_spent"],
        "429s": found["by_status"].get("429", 0),
    }


@contextmanager
def exchange(users: int, period_seconds: float, window_model: str = "sliding") -> Iterator[Place]:
    """A simulated exchange in a process of its own, so that no client has to share its core with it."""
    arguments = ["simulate", "--port", "0", "--users", str(users), "--seed", "1", "--latency", "0-0.004"]
    arguments += ["--period-seconds", str(period_seconds), "--window-model", window_model]
    process = subprocess.Popen([sys.executable, "-m", "vigil", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip().removeprefix("VIGIL_API_URL=")
        yield Place(url, period_seconds, START_MS, END_MS)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
