"""Archives of a made-up exchange: hourly files as the real ones, of all users' fills in a window.

`node_fills_by_block`: a block is a millisecond in which somebody traded; `node_fills`: a fill a line. Everything that
happened is in them, whatever retention took since. Pure but for the files; must not know who reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import lz4.frame

from .population import HOUR_MS, Population

FORMS = ("node_fills_by_block", "node_fills")
_FIRST_BLOCK = 670_000_000

Event = tuple[int, str, str]
"""ms, user, JSON text of the fill."""


def write_archives(
    population: Population,
    directory: Path,
    start_ms: int,
    end_ms: int,
    *,
    now_ms: int = 0,
    form: str = FORMS[0],
    packed: bool = True,
) -> list[Path]:
    """Write `directory`/FORM/hourly/YYYYMMDD/H(.lz4) for each hour of [start_ms, end_ms) that has fills."""
    written = []
    happened = _events(population, start_ms, end_ms, now_ms)
    for hour, of_hour in groupby(happened, key=lambda event: event[0] // HOUR_MS):
        events = list(of_hour)
        moment = datetime.fromtimestamp(hour * HOUR_MS // 1000, UTC)
        folder = directory / form / "hourly" / f"{moment:%Y%m%d}"
        folder.mkdir(parents=True, exist_ok=True)
        lines = blocks(events) if form == FORMS[0] else (f'["{user}",{row}]' for _, user, row in events)
        text = "".join(f"{line}\n" for line in lines).encode()
        path = folder / f"{moment.hour}{'.lz4' if packed else ''}"
        path.write_bytes(lz4.frame.compress(text, content_checksum=True) if packed else text)
        written.append(path)
    return written


def _events(population: Population, start_ms: int, end_ms: int, now_ms: int) -> list[Event]:
    """In the order of time; of one user in the order of execution."""
    events = []
    for index in range(population.size):
        user, history = population.address(index), population.history(index, now_ms)
        for time_ms, row in zip(history.times, history.rows, strict=True):
            if start_ms <= time_ms < end_ms and time_ms <= now_ms:
                events.append((time_ms, user, row))
    return sorted(events, key=itemgetter(0))


def blocks(events: Iterable[Event]) -> Iterator[str]:
    """Lines of node_fills_by_block."""
    for number, (time_ms, together) in enumerate(groupby(events, key=itemgetter(0)), _FIRST_BLOCK):
        pairs = ",".join(f'["{user}",{row}]' for _, user, row in together)
        yield (
            f'{{"local_time":{json.dumps(_moment(time_ms + 300, 123_456_789))},'
            f'"block_time":{json.dumps(_moment(time_ms, 273_720_809))},"block_number":{number},"events":[{pairs}]}}'
        )


def _moment(time_ms: int, nanoseconds: int) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    fraction = milliseconds * 1_000_000 + nanoseconds % 1_000_000
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}"
