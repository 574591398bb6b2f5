"""The simulated exchange on a socket: `Simulator` and `serve`.

Endpoints:

- `POST /info`: the exchange's own. Types `userFillsByTime`, `userFills` (newest first) and
  `userTwapSliceFillsByTime`. 422 with a text for what it does not understand (also for
  `aggregateByTime: true`, which is not simulated), 429 with body `null` over the budget.
- `GET /truth?offset=0&limit=1000`: JSON with the population's `users`, `seed` and `config`, the
  simulated `now_ms`, a page of `addresses`, and `recordings`: file name -> address.
- `GET /truth/{address}?start=&end=`: JSON with `rows` (fills in the window, both ends inclusive
  in ms, reachable now), `row_count`, `lost_rows` (fills of the window that retention took) and
  `twap_slices`.
- `GET /stats`: JSON with requests (all, by type), answers by status, weight spent, 429s, rows
  served and faults by kind.

Only POST /info costs weight and meets faults and latency.

Must not know what a fill is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from types import TracebackType
from typing import Any

import msgspec
from aiohttp import web

from vigil.errors import UsageError

from .config import SimulatorConfig
from .exchange import Exchange, Truth
from .info import InfoDesk
from .population import Population
from .replay import Recording

# How long a close waits for answers under way before it cancels them; hanging ones never end by themselves.
_SHUTDOWN_SECONDS = 0.1
_ADDRESSES_A_PAGE = 1_000
_MOST_ADDRESSES_A_PAGE = 100_000  # some 5 MB
_decode_row = msgspec.json.Decoder(float_hook=Decimal).decode


class Simulator:
    """A simulated exchange; an async context manager that serves while it is open."""

    def __init__(self, config: SimulatorConfig | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.config = config = config or SimulatorConfig()
        self.host, self.port = host, port
        self.population = Population(
            config.users,
            seed=config.seed,
            scale=config.scale,
            lengths=config.lengths,
            saturated=config.saturated_users,
            saturated_rows=config.saturated_rows,
            moving=config.moving,
            moving_fills_per_hour=config.moving_fills_per_hour,
            start_now_ms=config.start_now_ms,
        )
        self.recording = (
            Recording.load(config.replay, config.replay_shift_end_ms) if config.replay is not None else Recording()
        )
        self._exchange = Exchange(
            self.population, self.recording, page_rows=config.page_rows, retention_rows=config.retention_rows
        )
        self._started_at: float | None = None
        self._desk = InfoDesk(config, self._exchange, self.now_ms)
        self.stats = self._desk.stats
        self.charges = self._desk.charges  # (monotonic seconds, weight), bounded
        self._runner: web.AppRunner | None = None

    # -- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Simulator:
        app = web.Application()
        app.router.add_post("/info", self._desk.answer)
        app.router.add_get("/truth", self._truth_of_all)
        app.router.add_get("/truth/{address}", self._truth_of_one)
        app.router.add_get("/stats", self._stats)
        # Held requests (`hang`, `drip`) are cancelled when their client goes away, and soon after a close.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self.host, self.port)
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"can't listen on {self.host}:{self.port}: {error.strerror}", hint="choose another host or port"
            ) from error
        self.port = self._runner.addresses[0][1]
        self._started_at = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def __repr__(self) -> str:
        return (
            f"<Simulator {self.url} users={self.population.size} recorded={len(self.recording.users)} "
            f"requests={self.stats.requests} throttled={self.stats.throttled}>"
        )

    # -- for tests and the CLI ---------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where to POST; the port is known once the simulator is open."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/info"

    def now_ms(self) -> int:
        """The simulated moment: it stands at `start_now_ms` until the simulator opens."""
        if self._started_at is None:
            return self.config.start_now_ms
        elapsed_seconds = time.monotonic() - self._started_at
        return self.config.start_now_ms + int(elapsed_seconds * self.config.speed * 1_000)

    def truth(self, address: str, start_ms: int, end_ms: int | None) -> list[dict[str, Any]]:
        """The fills in the window (both ends inclusive) that can be reached now, oldest first.

        JSON numbers with a fraction come as Decimal, so that nothing is rounded on the way.
        """
        return [_decode_row(row) for row in self._truth(address, start_ms, end_ms).rows]

    def lost_rows(self, address: str, start_ms: int, end_ms: int | None) -> int:
        """How many fills of the window retention has taken by now."""
        return self._truth(address, start_ms, end_ms).lost_rows

    def twap_truth(self, address: str, start_ms: int, end_ms: int | None) -> list[dict[str, Any]]:
        """The recorded `{fill, twapId}` rows of the window."""
        found = self._exchange.twap_truth(address.lower(), start_ms, end_ms)
        return [_decode_row(row) for row in found.rows]

    def _truth(self, address: str, start_ms: int, end_ms: int | None) -> Truth:
        return self._exchange.truth(address.lower(), start_ms, end_ms, self.now_ms())

    # -- GET ---------------------------------------------------------------------------------

    async def _truth_of_all(self, request: web.Request) -> web.Response:
        offset = _whole(request, "offset", 0) or 0
        limit = min(_whole(request, "limit", _ADDRESSES_A_PAGE) or 0, _MOST_ADDRESSES_A_PAGE)
        settings = {one.name: getattr(self.config, one.name) for one in fields(self.config)}
        return _json(
            {
                "users": self.population.size,
                "seed": self.config.seed,
                "now_ms": self.now_ms(),
                "config": settings,
                "offset": offset,
                "addresses": self.population.addresses(offset, limit),
                "recordings": self.recording.files,
                "skipped_recordings": self.recording.skipped,
            }
        )

    async def _truth_of_one(self, request: web.Request) -> web.Response:
        address = request.match_info["address"].lower()
        start_ms, end_ms = _whole(request, "start", 0) or 0, _whole(request, "end", None)
        found = self._truth(address, start_ms, end_ms)
        slices = self._exchange.twap_truth(address, start_ms, end_ms)
        return _json(
            {
                "address": address,
                "start": start_ms,
                "end": end_ms,
                "now_ms": self.now_ms(),
                "row_count": len(found.rows),
                "lost_rows": found.lost_rows,
                "rows": [msgspec.Raw(row.encode()) for row in found.rows],
                "twap_slices": [msgspec.Raw(row.encode()) for row in slices.rows],
            }
        )

    async def _stats(self, request: web.Request) -> web.Response:
        return _json({one.name: getattr(self.stats, one.name) for one in fields(self.stats)})


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer, enc_hook=str), content_type="application/json")


def _whole(request: web.Request, name: str, default: int | None) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit():
        raise web.HTTPBadRequest(text=f"{name} must be a whole number, not {text!r}")
    return int(text)


async def serve(config: SimulatorConfig, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Run a simulator until cancelled; `announce` is told the URL once it listens."""
    async with Simulator(config, host=host, port=port) as simulator:
        announce(simulator.url)
        await asyncio.Event().wait()
