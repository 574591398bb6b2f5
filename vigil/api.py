"""The exchange's HTTP API: one request at a time within the budget, errors told apart.

`HyperliquidAPI` is the one door to the network (aiohttp is imported here and in the simulator
only) and the library's public face. It knows pages and fills, nothing of users' progress or of
a database.

Who retries what: an answer that is an error page, cut, late, too large or not a page is asked
for again here (`request_tries`, exponential with jitter, every try paying its weight). A 429
and an unreachable exchange say nothing about the request: they close the gate of the address it
went by, and the request waits its turn again, until the patience of the settings is over with every
address. Where one address of several fails in whatever way while another is answered, its gate is
closed, too. What the exchange refuses for good (422) is raised at once. See `docs/errors.md`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from vigil.address import normalize_address
from vigil.allowance import Allowance
from vigil.beside import LARGE_BYTES, beside
from vigil.cursor import PageRefused, Step, Walk
from vigil.egress import Egress, read_lanes
from vigil.errors import (
    ExchangeError,
    ExchangeRefused,
    ExchangeThrottled,
    ExchangeUnavailable,
    ExchangeUnreachable,
    Fault,
    MalformedReply,
    UsageError,
)
from vigil.fills import Page, Stream, UndecodablePage, decode_page
from vigil.limiter import Queue, Ticket, WeightLimiter, admission, prices_of
from vigil.logs import bind
from vigil.owners import Owners
from vigil.settings import Settings, load_settings
from vigil.sources import Source, main_source

log = logging.getLogger(__name__)
T = TypeVar("T")

PERMANENT = frozenset({400, 401, 404, 405, 406, 410, 413, 414, 415, 422})
"""Statuses that answer this very request (422 PROVEN for a body it can't read); all others may pass."""

PAGE_TRIES = 3
"""How often a page is asked for that the walk refuses: out of order, or not going on from what is held."""

LANE_FAILURES = 5
"""Tries in a row without a usable answer after which a lane is left out, while another lane is answered."""

_NO_CONNECTION = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,  # the proxy would not connect
    ssl.SSLError,
)

_REQUEST_TYPE = {Stream.FILLS: "userFillsByTime", Stream.SLICES: "userTwapSliceFillsByTime"}

Read = Callable[[bytes], Coroutine[Any, Any, T]]
"""What makes an answer of a body. Raises: MalformedReply when it is none."""

FetchPage = Callable[[str, int, int], Awaitable[Page]]
"""(user, start_ms, end_ms), both inclusive, to the earliest rows in there."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How long an answer took, and how much earlier than the exchange's this machine's clock is (to the second)."""

    seconds: float
    skew: timedelta | None


class HyperliquidAPI:
    """Client of the exchange's `info` endpoint for users' historical fills.

    Use it as an async context manager. Settings come from the environment unless given; each of
    their lanes is an address with a weight budget of its own, which all requests of one instance
    share, so use one instance per address.
    `requests_per_minute` is the original plan's cap, on top of the weight. `limiter` replaces the first
    lane's, and there is no other then. `source` is another host that speaks the protocol, with its own
    headers, prices and limits.

        async with HyperliquidAPI() as api:
            async for page in api.iter_user_fills(user, start_time, end_time):
                ...
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        requests_per_minute: float | None = None,
        limiter: WeightLimiter | None = None,
        source: Source | None = None,
    ) -> None:
        self.settings = settings or load_settings(requests_per_minute=requests_per_minute)
        self.source = source or main_source(self.settings)
        self.prices = prices_of(self.source)
        queue, self.lanes = Queue(), read_lanes(self.settings.lane)[: 1 if limiter else None]
        self.limiters = [limiter] if limiter else [self._new_limiter(queue) for _ in self.lanes]
        self._lane_of = dict(zip(self.limiters, self.lanes, strict=True))
        self.faults: Counter[str] = Counter()
        """What went wrong so far, by `Fault`: also what a retry then put right."""
        self.requests = 0
        self.allowance = Allowance()
        """What a run may spend on pages in all; theirs to replace before the first."""
        self._owners = Owners()
        self._sessions: dict[WeightLimiter, aiohttp.ClientSession] = {}
        self._open = AsyncExitStack()
        self._parked: set[str] = set()  # lanes that were said to fail
        self._failures: Counter[WeightLimiter] = Counter()  # of each lane, in a row
        self._date: str | None = None  # as the last answer told it
        self._answered_once = False
        self._silent_since: float | None = None

    async def __aenter__(self) -> Self:
        for lane in self.lanes:
            lane.check()
        for limiter, lane in self._lane_of.items():
            self._sessions[limiter] = await self._open.enter_async_context(self._new_session(lane))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sessions.clear()
        await self._open.aclose()

    def __repr__(self) -> str:
        budgets = ", ".join(repr(limiter.budget) for limiter in self.limiters)
        return f"<HyperliquidAPI {self.source.shown_api_url}, {self.requests} requests, {budgets}>"

    @property
    def limiter(self) -> WeightLimiter:
        """The first address's."""
        return self.limiters[0]

    @property
    def weight_spent(self) -> int:
        """By all addresses."""
        return sum(limiter.weight_spent for limiter in self.limiters)

    @property
    def pauses(self) -> int:
        """How often an address was paused, after a 429 or without a connection."""
        return sum(limiter.gate.pauses for limiter in self.limiters)

    async def get_user_fills_by_time(self, user: str, start_time: int, end_time: int | None = None) -> Page:
        """One page: the earliest fills (at most 2000) of `user` in [start_time, end_time], ms, both inclusive.

        The page is a list of `Fill`; rows that could not be understood are in its `rejected`.
        Raises: UsageError for a bad address or window, ExchangeError when the exchange gives no answer.
        """
        return await self._ask_page(Stream.FILLS, user, start_time, end_time)

    async def get_user_twap_slice_fills_by_time(self, user: str, start_time: int, end_time: int | None = None) -> Page:
        """The same of what the user's TWAP orders executed, which is not among the other fills; `twap_id` is set.

        Same order, caps and weights (DOC). Raises: as `get_user_fills_by_time`.
        """
        return await self._ask_page(Stream.SLICES, user, start_time, end_time)

    async def iter_user_fills(self, user: str, start_time: int, end_time: int) -> AsyncIterator[Page]:
        """All fills of `user` in [start_time, end_time], ms, both inclusive, page by page, oldest first.

        Each fill comes once, overlaps of pages are dropped; where the exchange lost rows meanwhile
        a warning is logged. Raises: as `get_user_fills_by_time`, and MalformedReply.
        """
        user = _checked(user, start_time, end_time)
        walk = Walk(start_time, end_time + 1, page_rows=self.source.page_rows)
        while not walk.done:
            page, step = await advance(walk, user, self.get_user_fills_by_time, self.faults)
            for gap in step.gaps:
                log.warning("fills of %s may be missing in [%d, %d]: %s", user, gap.from_ms, gap.to_ms, gap.kind)
            if step.fills or page.rejected:
                yield Page(step.fills, rejected=page.rejected, rows=page.rows, body_bytes=page.body_bytes)

    async def get_lifetime_volume(self, user: str) -> Decimal | None:
        """`cumVlm` of `userRateLimit`: the notional that the exchange counts for `user`; None if it tells none.

        20 weight (DOC: as every info request without a price of its own). What exactly it counts is unproven.
        Raises: UsageError for a bad address, ExchangeError.
        """
        request = {"type": "userRateLimit", "user": normalize_address(user)}
        return await self._ask(request, _read_volume, lambda _: self.prices.base, allowance=None)

    async def probe(self, lane: int = 0) -> Probe:
        """Ask the cheapest question there is by one lane: 20 weight, tried once. Raises: ExchangeError."""
        limiter = self.limiters[lane]
        request = {"type": _REQUEST_TYPE[Stream.FILLS], "user": "0x" + "0" * 40, "startTime": 0, "endTime": 0}
        async with limiter.request() as ticket:
            started = _now()
            _read_page(await self._post(request, limiter, ticket), Stream.FILLS)
            ticket.weight, ticket.answered = self.prices.base, True
        return Probe(_now() - started, _skew(self._date))

    def _new_limiter(self, queue: Queue) -> WeightLimiter:
        return WeightLimiter(
            self.source.weight_per_minute,
            self.settings.weight_period_seconds,
            requests_per_period=self.source.requests_per_minute,
            longest_pause_seconds=2 * self.settings.retry_max_seconds,
            prices=self.prices,
            queue=queue,
        )

    def _new_session(self, lane: Egress) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(
            total=self.settings.request_timeout_seconds, connect=self.settings.connect_timeout_seconds
        )
        return aiohttp.ClientSession(
            timeout=timeout,
            connector=aiohttp.TCPConnector(
                limit=0,  # the limiter bounds what is in flight
                local_addr=(lane.ip, 0) if lane.ip else None,
                family=lane.family,
            ),
            headers=self._headers() | ({} if self.source.api_url.startswith("https:") else lane.proxy_headers),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=lane.proxy_url,
        )

    def _headers(self) -> dict[str, str]:
        """Those of every request: the source's own, secret ones go to its host alone, for no redirect is followed."""
        own = {name: value.get_secret_value() for name, value in self.source.headers.items()}
        ours = {"User-Agent": f"vigil-backfill/{version('vigil-backfill')}", "Accept-Encoding": "gzip"}
        taken = {name.lower() for name in own}
        return {**{name: value for name, value in ours.items() if name.lower() not in taken}, **own}

    async def _ask_page(self, stream: Stream, user: str, start_time: int, end_time: int | None) -> Page:
        request: dict[str, Any] = {
            "type": _REQUEST_TYPE[stream],
            "user": _checked(user, start_time, end_time),
            "startTime": start_time,
        }
        if stream is Stream.FILLS:
            request["aggregateByTime"] = False  # true merges rows: 13,907 became 9,029 (PROVEN)
        if end_time is not None:
            request["endTime"] = end_time

        async def read(body: bytes) -> Page:
            page = await beside(_read_page, body, stream) if len(body) > LARGE_BYTES else _read_page(body, stream)
            self._check_owner(request["user"], page)
            return page

        page = await self._ask(request, read, lambda page: self.prices.page(page.rows), self.allowance)
        self.faults[Fault.REJECTED_ROWS] += len(page.rejected)
        self.faults[Fault.ODD_ROWS] += page.odd_rows
        self.faults[Fault.DUPLICATE_ROWS] += page.rows - len(page) - len(page.rejected)
        return page

    async def _ask(
        self, request: dict[str, Any], read: Read[T], weigh: Callable[[T], int], allowance: Allowance | None
    ) -> T:
        """The answer that `read` makes of the body, if the `allowance` permits it; `weigh` tells what it cost.

        `read` raises MalformedReply for what is no answer: it is then asked for again.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((ExchangeUnavailable, MalformedReply)),
            stop=stop_after_attempt(self.settings.request_tries),
            wait=wait_random_exponential(multiplier=0.5, max=self.settings.retry_max_seconds),
            reraise=True,
        )
        return await retrying(self._ask_through_gate, request, read, weigh, allowance)

    async def _ask_through_gate(
        self, request: dict[str, Any], read: Read[T], weigh: Callable[[T], int], allowance: Allowance | None
    ) -> T:
        while True:
            async with admission(self.limiters, allowance) as (limiter, ticket):
                try:
                    answer = await read(await self._ask_once(request, limiter, ticket))
                    ticket.weight = weigh(answer)
                except (MalformedReply, ExchangeUnavailable) as error:
                    if isinstance(error, MalformedReply):
                        self.faults[error.fault] += 1
                    self._blame_lane(limiter, ticket, error)
                    raise
                except (ExchangeThrottled, ExchangeUnreachable) as error:
                    pause = limiter.pause(ticket, getattr(error, "retry_after", None))
                    self._check_patience(error, pause)
                    self._tell_parked(limiter, error, pause)
                else:
                    ticket.answered = True
                    self._answered_once, self._silent_since = True, None
                    self._failures[limiter] = 0
                    self._parked.discard(self._lane_of[limiter].name)
                    return answer

    async def _ask_once(self, request: dict[str, Any], limiter: WeightLimiter, ticket: Ticket) -> bytes:
        self.requests += 1
        bind(lane=self._lane_of[limiter].name)
        if self._silent_since is None:
            self._silent_since = _now()
        try:
            return await self._post(request, limiter, ticket)
        except ExchangeError as error:
            self.faults[error.fault] += 1
            if isinstance(error, ExchangeThrottled):
                ticket.weight = self.prices.base
            elif isinstance(error, ExchangeUnreachable):
                ticket.weight = 0
            else:
                self._silent_since = None  # no silence: and `request_tries` bounds these
            raise

    def _check_owner(self, user: str, page: Page) -> None:
        """Raises: MalformedReply when the page was meant for somebody else, as far as that can be told."""
        other = self._owners.other_owner(user, page)
        if other is not None:
            raise MalformedReply(
                f"The exchange's answer holds a fill that it gave to {other} before; it can't be both users'.",
                fault=Fault.ANOTHER_USER,
            )

    async def _post(self, request: dict[str, Any], limiter: WeightLimiter, ticket: Ticket) -> bytes:
        """The body of a 200. Sets the ticket's weight where an error tells what was charged."""
        assert self._sessions, "use HyperliquidAPI as an async context manager"  # noqa: S101
        limit, session = self.settings.max_body_bytes, self._sessions[limiter]
        to_proxy = self._lane_of[limiter].proxy_headers or None  # for the tunnel, if it takes one
        try:
            async with session.post(
                self.source.api_url, json=request, allow_redirects=False, proxy_headers=to_proxy
            ) as response:
                self._date = response.headers.get("Date")
                if response.status != 200:
                    ticket.weight = self.prices.base  # no rows were served, so none were charged
                    ticket.answered = response.status in PERMANENT
                    raise await _error_of(response, self.source)
                ticket.weight = self.prices.full_page  # until it is known: the server has served something
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise ExchangeUnavailable(
                            f"The answer is larger than {limit} bytes (VIGIL_MAX_BODY_BYTES).", fault=Fault.TOO_LARGE
                        )
                return bytes(body)
        except _NO_CONNECTION as error:
            raise ExchangeUnreachable(f"No connection to {self.source.shown_api_url}: {_reason(error)}.") from error
        except TimeoutError as error:
            seconds = self.settings.request_timeout_seconds
            raise ExchangeUnavailable(
                f"The exchange did not finish its answer within {seconds:g} s.", fault=Fault.LATE
            ) from error
        except (aiohttp.ClientError, ConnectionError, ValueError, asyncio.IncompleteReadError) as error:
            raise ExchangeUnavailable(
                f"The exchange's answer broke off: {_reason(error)}.", fault=Fault.BROKEN_OFF
            ) from error

    def _blame_lane(self, limiter: WeightLimiter, ticket: Ticket, error: ExchangeError) -> None:
        """Close the gate of a lane that fails again and again while another is answered: no user is to blame for it."""
        self._failures[limiter] += 1
        others = (one for one in self.limiters if one is not limiter)
        if self._failures[limiter] >= LANE_FAILURES and any(
            one.gate.is_open and one.admitted and not self._failures[one] for one in others
        ):
            self._tell_parked(limiter, error, limiter.pause(ticket))

    def _tell_parked(self, limiter: WeightLimiter, error: ExchangeError, pause: float) -> None:
        """Say once that an address fails while others go on; it is tried again by one request after each pause."""
        name = self._lane_of[limiter].name
        if not isinstance(error, ExchangeThrottled) and len(self.lanes) > 1 and name not in self._parked:
            self._parked.add(name)
            log.warning("lane %s is left out until it works: %s", name, error)
        else:
            log.debug("lane %s paused for %.1f s: %s", name, pause, error)

    def _check_patience(self, error: ExchangeThrottled | ExchangeUnreachable, pause: float) -> None:
        """Raise `error` when the next try, `pause` seconds away, would come after the settings' patience.

        Not while an address is left that did not fail.
        """
        if any(limiter.gate.is_open for limiter in self.limiters):
            return
        never = not self._answered_once and isinstance(error, ExchangeUnreachable)
        patience = self.settings.startup_patience_seconds if never else self.settings.outage_patience_seconds
        if math.isinf(pause):  # somebody else is trying just now
            pause = 0.0
        if self._silent_since is not None and _now() + pause - self._silent_since >= patience:
            error.hint = "Nothing is lost: run the same command again later."
            raise error


def _checked(user: str, start_time: int, end_time: int | None) -> str:
    """The address in lower case, if it and the window make sense. Raises: UsageError."""
    if start_time < 0 or (end_time is not None and end_time < start_time):
        raise UsageError(f"The window [{start_time}, {end_time}] is empty or begins before 1970.")
    return normalize_address(user)


async def _read_volume(body: bytes) -> Decimal | None:
    try:
        told = msgspec.json.decode(body, type=dict[str, Any]).get("cumVlm")
        volume = None if told is None else Decimal(str(told))
        if volume is not None and not (volume.is_finite() and volume.adjusted() < 30):
            raise MalformedReply(f"The exchange answered 200, but tells a volume of {told!s:.40}.")
        return volume
    except (msgspec.DecodeError, RecursionError, ArithmeticError) as error:
        raise MalformedReply("The exchange answered 200, but tells no volume.") from error


def _read_page(body: bytes, stream: Stream) -> Page:
    try:
        return decode_page(body, stream)
    except UndecodablePage as error:
        raise MalformedReply(f"The exchange answered 200, but {error}.") from error


async def advance(walk: Walk, user: str, fetch_page: FetchPage, faults: Counter[str]) -> tuple[Page, Step]:
    """Ask for the walk's next page until it is accepted; what was wrong with others is added to `faults`.

    Raises: MalformedReply after `PAGE_TRIES`, ExchangeError.
    """
    for tries_left in reversed(range(PAGE_TRIES)):
        page = await fetch_page(user, walk.cursor_ms, walk.last_ms)
        try:
            step = walk.take(page)
            faults[Fault.OUT_OF_WINDOW_ROWS] += step.out_of_window_rows
            return page, step
        except PageRefused as error:
            faults[error.fault] += 1
            if not tries_left:
                raise MalformedReply(f"The exchange's answer can't be right: {error}.") from error
            log.debug("%s: asking again: %s", user, error)
    raise AssertionError("unreachable")


async def _error_of(response: aiohttp.ClientResponse, source: Source) -> Exception:
    """Translate an answer that is not 200. It may repeat what it was sent, so secrets are blacked out."""
    if response.status == 429:
        header = response.headers.get("Retry-After", "")
        return ExchangeThrottled(
            "The exchange answers 429: this address has spent its weight.",
            retry_after=float(header) if header.isdecimal() else None,
        )
    body = bytearray()
    while len(body) < 4096 and (piece := await response.content.read(4096)):  # whole, lest a secret come in halves
        body += piece
    text = source.redact(body.decode("utf-8", "replace"))[:300].strip()
    if response.status in PERMANENT:
        message = f"The exchange refuses the request with status {response.status}: {text!r}."
        return ExchangeRefused(message, status=response.status)
    fault = Fault.REDIRECTED if 300 <= response.status < 400 else Fault.ERROR_STATUS
    return ExchangeUnavailable(f"The exchange answers with status {response.status}.", fault=fault)


def _skew(date: str | None) -> timedelta | None:
    try:
        return parsedate_to_datetime(date or "") - datetime.now(UTC)
    except (ValueError, TypeError):
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
