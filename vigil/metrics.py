"""A run's numbers over HTTP: /metrics for Prometheus, /healthz, /readyz.

Served by a thread of its own, so that a scrape never waits behind a page. The thread asks the event loop for the
tally: if the loop does not answer within seconds, the process hangs, and /healthz says so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from vigil.errors import Fault, UsageError
from vigil.pipeline import Display
from vigil.tally import Tally

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""The loop is never busy for longer than a page takes to decode, some 30 ms."""

SILENT_SECONDS = 1.5
"""A database that is asked once a second and has not answered for so long is stuck, or away."""

_NO_ANSWER = (TimeoutError, concurrent.futures.CancelledError, RuntimeError)
"""Of a loop that hangs, or is closing."""

Gauge, Counter = GaugeMetricFamily, CounterMetricFamily


class Metrics(Collector):
    """What /metrics tells of the run, by the names in `docs/metrics.md`."""

    def __init__(self, look: Callable[[], Tally], loop: asyncio.AbstractEventLoop, labels: dict[str, str]) -> None:
        self._look, self._loop, self._labels = look, loop, labels

    def tally(self) -> Tally:
        """Asked in the loop's own thread. Raises: TimeoutError."""

        async def look() -> Tally:
            return self._look()

        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(PATIENCE_SECONDS)

    def collect(self) -> Iterator[Metric]:
        tally = self.tally()
        yield InfoMetricFamily("vigil_worker", "Who this is.", value=self._labels)
        yield _by("vigil_users", "Users by where they stand in this run.", "state", _users(tally), Gauge)
        yield _by("vigil_fills", "Fills committed, by what became of them.", "outcome", _fills(tally), Counter)
        yield _by("vigil_faults", "What the exchange did wrong.", "kind", _faults(tally), Counter)
        for name, text, count in _counters(tally):
            family = Counter(name, text)
            family.add_metric([], count)
            yield family
        yield from _lanes(tally)
        yield _one("vigil_queue_pages", "Pages that wait for the database.", tally.queued_pages)
        yield _one("vigil_queue_capacity_pages", "Pages that may wait for it.", tally.queue_capacity_pages)
        silent = tally.database_silent_seconds
        yield _one("vigil_database_silent_seconds", "Since the database last answered; asked once a second.", silent)
        yield _one("vigil_run_seconds", "Since the run began to read.", tally.seconds)
        eta = tally.eta()
        if eta is not None:
            bounds = {"low": eta.low, "expected": eta.expected, "high": eta.high}
            yield _by("vigil_eta_seconds", "Until everybody is read, nine times of ten.", "bound", bounds, Gauge)


def _users(tally: Tally) -> dict[str, int]:
    return {
        "done": tally.users_done,
        "failed": tally.users_failed,
        "reading": len(tally.reading),
        "left": tally.users_left,
    }


def _fills(tally: Tally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in ("inserted", "updated", "already_there", "refused", "rejected")}


def _faults(tally: Tally) -> dict[str, int]:
    """Every kind from the beginning: of a counter that appears with its first count, that count is no increase."""
    return dict.fromkeys(Fault, 0) | tally.faults


def _counters(tally: Tally) -> list[tuple[str, str, int]]:
    return [
        ("vigil_requests", "Requests sent.", tally.requests),
        ("vigil_gaps", "Spans found in which rows may be missing.", tally.gaps),
        ("vigil_batches", "Batches committed.", tally.batches),
        ("vigil_pauses", "Pauses of a lane, after a 429 or without a connection.", tally.pauses),
    ]


def _lanes(tally: Tally) -> Iterator[Metric]:
    fields: dict[str, tuple[Any, str]] = {
        "spent": (Counter("vigil_weight", "Weight spent.", labels=["lane"]), "spent_weight"),
        "used": (Gauge("vigil_lane_used_weight", "Weight spent in the last period.", labels=["lane"]), "used_weight"),
        "share": (Gauge("vigil_lane_share_weight", "Weight it may spend a period.", labels=["lane"]), "share_weight"),
        "open": (Gauge("vigil_lane_open", "1: not paused.", labels=["lane"]), "open"),
    }
    for family, field in fields.values():
        for lane in tally.lanes:
            family.add_metric([lane.name], float(getattr(lane, field)))
        yield family


def _by(
    name: str, text: str, label: str, values: Mapping[str, float], family: type[GaugeMetricFamily | CounterMetricFamily]
) -> Metric:
    found: Any = family(name, text, labels=[label])
    for key, value in values.items():
        found.add_metric([key], value)
    return cast("Metric", found)


def _one(name: str, text: str, value: float) -> Metric:
    found = Gauge(name, text)
    found.add_metric([], value)
    return found


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: one that stays silent (a browser opens such) holds up nobody."""

    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks the DNS for our name, and the run would wait for that
        self.server_name, self.server_port = socket.gethostname(), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a scraper went away", exc_info=True)


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds that a connection may say nothing

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name in the base class
        """A scrape every few seconds is no news."""


@contextmanager
def serving_metrics(port: int, look: Callable[[], Tally], labels: dict[str, str]) -> Iterator[int]:
    """Serve on `port` of every address (0: a free one) while the block runs; yields the port.

    Raises: UsageError when the port can't be had.
    """
    metrics = Metrics(look, asyncio.get_running_loop(), labels)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    exposition = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path in ("/metrics", "/"):
            try:
                return exposition(environ, start)  # type: ignore[no-any-return]
            except _NO_ANSWER:
                path = "/healthz"  # which tells that
        status, text = _probed(metrics, path)
        body = f"{text}\n".encode()
        start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [body]

    try:
        server: WSGIServer = make_server("", port, app, server_class=_Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--metrics-port {port} can't be listened on: {error}.", hint="Choose another port."
        ) from error
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        # A scrape under way asks the loop, which runs this: so it is not waited for here.
        Thread(target=server.shutdown, daemon=True).start()
        server.server_close()


def metered(display: Display, port: int) -> Display:
    """The display, and the numbers on that port for as long as it goes on."""

    async def show(look: Callable[[], Tally]) -> None:
        labels = {"version": version("vigil-backfill"), "host": socket.gethostname(), "pid": str(os.getpid())}
        with serving_metrics(port, look, labels) as bound:
            log.info("metrics at http://localhost:%d/metrics", bound)
            await display(look)

    return show


def _healthy(_: Tally) -> tuple[str, str]:
    """The process lives and does not hang: it has answered."""
    return "200 OK", "ok"


def _ready(tally: Tally) -> tuple[str, str]:
    """It can work: it has a share of a lane, and that is not paused."""
    if not any(lane.open for lane in tally.lanes):
        return _UNAVAILABLE, "every lane is paused: the exchange refuses, or can't be reached"
    if not any(lane.share_weight for lane in tally.lanes):
        return _UNAVAILABLE, f"no share of any lane's budget: {_why_no_share(tally)}"
    return "200 OK", "ready"


def _why_no_share(tally: Tally) -> str:
    silent = tally.database_silent_seconds
    if silent >= SILENT_SECONDS:
        return f"the database has not answered for {silent:.0f} s"
    return "other workers have it, and this one has nothing to ask for or has to wait"


_UNAVAILABLE = "503 Service Unavailable"

_PROBES = {"/healthz": _healthy, "/readyz": _ready}


def _probed(metrics: Metrics, path: str) -> tuple[str, str]:
    """The answer to what is not /metrics."""
    probe = _PROBES.get(path)
    if probe is None:
        return "404 Not Found", "there is /metrics, /healthz and /readyz"
    try:
        return probe(metrics.tally())
    except _NO_ANSWER:
        return _UNAVAILABLE, f"the event loop did not answer within {PATIENCE_SECONDS:g} s"
