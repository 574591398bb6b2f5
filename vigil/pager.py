"""One user's history, page by page: claim -> pages -> chunks. No database, no HTTP of its own.

A pager owns nothing durable. It asks for pages with the function it is given and puts what they
leave to commit on the queue; when it is cancelled or killed, the user's next claim starts from
the last cursor that the writer committed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal

from vigil.api import FetchPage, advance
from vigil.claims import Claim
from vigil.cursor import Walk
from vigil.errors import ExchangeError, ExchangeRefused, ExchangeUnavailable, MalformedReply
from vigil.store import Chunk

log = logging.getLogger(__name__)

Put = Callable[[Chunk], Awaitable[None]]
"""Queues a chunk; blocks while the queue is full, which is how a slow database slows the fetch."""


FetchVolume = Callable[[str], Awaitable[Decimal | None]]


async def read_user(
    claim: Claim,
    fetch_page: FetchPage,
    put: Put,
    faults: Counter[str],
    *,
    fetch_volume: FetchVolume | None = None,
    page_rows: int | None = None,
) -> ExchangeError | None:
    """Read the claimed user to the end of its window; what was wrong with its pages is added to `faults`.

    `page_rows` are those of a full page, None: the exchange's.

    Returns why the exchange would not answer for this user, or None.
    Raises: ExchangeUnreachable, ExchangeThrottled when it answers nobody: nothing to blame a user for.
    """
    walk = Walk(claim.cursor_ms, claim.end_ms, held=claim.held, page_rows=page_rows)
    if walk.done:
        await put(Chunk(claim.user, claim.cursor_ms, done=True, stream=claim.stream))
    while not walk.done:
        try:
            page, step = await advance(walk, claim.user, fetch_page, faults)
        except (ExchangeRefused, ExchangeUnavailable, MalformedReply) as error:
            return error
        volume = await _volume(claim.user, fetch_volume) if fetch_volume and step.done else None
        for gap in step.gaps:
            log.warning("%s: rows may be missing in [%d, %d] (%s)", claim.user, gap.from_ms, gap.to_ms, gap.kind)
        if page.rejected:
            log.warning("%s: %d rows could not be understood, see rejected_fills", claim.user, len(page.rejected))
        await put(
            Chunk(
                claim.user,
                step.cursor_ms,
                step.fills,
                done=step.done,
                gaps=step.gaps,
                rejected=page.rejected,
                body_bytes=page.body_bytes,
                stream=claim.stream,
                lifetime_volume=volume,
            )
        )
    return None


async def _volume(user: str, fetch_volume: FetchVolume) -> Decimal | None:
    """Nice to have: a user whose volume can't be had is read all the same."""
    try:
        return await fetch_volume(user)
    except (ExchangeRefused, ExchangeUnavailable, MalformedReply) as error:
        log.warning("%s: its lifetime volume can't be had: %s", user, error)
        return None
