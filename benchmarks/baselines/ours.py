"""vigil's client, pager and walk, without a database."""

from __future__ import annotations

import asyncio

from benchmarks.baselines import Keep, Place, Users
from vigil.api import HyperliquidAPI
from vigil.claims import Claim
from vigil.pager import read_user
from vigil.settings import load_settings
from vigil.store import Chunk

READERS = 8


async def ours(place: Place, users: Users, keep: Keep) -> None:
    settings = load_settings(api_url=place.url, weight_period_seconds=place.period_seconds)
    left = list(reversed(users))

    async def put(chunk: Chunk) -> None:
        keep(chunk.user, chunk.fills)

    async def read(api: HyperliquidAPI) -> None:
        while left:
            claim = Claim(left.pop(), place.start_ms, place.end_ms + 1)
            if error := await read_user(claim, api.get_user_fills_by_time, put, api.faults):
                raise error

    async with HyperliquidAPI(settings) as api, asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(read(api))
