"""Asking a running simulator for its truth over HTTP, from another process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp

from vigil.errors import ExchangeUnreachable

_ADDRESSES_A_PAGE = 1000


class Truth:
    """What the simulator at `url` (its base or its `/info`) holds; made by `open_truth`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._base = url.removesuffix("/info").rstrip("/")

    async def addresses(self) -> AsyncIterator[str]:
        """Every user there is, recorded ones last."""
        offset = 0
        while True:
            found = await self._get(f"/truth?offset={offset}&limit={_ADDRESSES_A_PAGE}")
            for address in found["addresses"]:
                yield address
            if len(found["addresses"]) < _ADDRESSES_A_PAGE:
                break
            offset += _ADDRESSES_A_PAGE
        for address in dict.fromkeys(found["recordings"].values()):
            yield address

    async def rows(self, address: str, start_ms: int, end_ms: int, *, slices: bool = False) -> list[dict[str, Any]]:
        """The fills in [start_ms, end_ms], both inclusive, that can be reached now; fractions as Decimal.

        With `slices` those of TWAP orders too, as rows that have their `twapId`.
        """
        found = await self._get(f"/truth/{address}?start={start_ms}&end={end_ms}")
        rows: list[dict[str, Any]] = found["rows"]
        return rows + [row["fill"] | {"twapId": row["twapId"]} for row in found["twap_slices"] if slices]

    async def _get(self, path: str) -> Any:
        try:
            async with self._session.get(self._base + path, raise_for_status=True) as response:
                return json.loads(await response.read(), parse_float=Decimal)
        except aiohttp.ClientError as error:
            raise ExchangeUnreachable(
                f"No simulator answers at {self._base}: {error}.", hint="Start one with `vigil-backfill simulate`."
            ) from error


@asynccontextmanager
async def open_truth(url: str) -> AsyncIterator[Truth]:
    async with aiohttp.ClientSession() as session:
        yield Truth(session, url)
