"""Rows and pages as the exchange would send them, and the settings of property tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from vigil.fills import Fill, Page, decode_page

Row = dict[str, Any]

USER = "0x" + "ab" * 20
NOT_IN_2023 = ("tid", "feeToken", "twapId")


def wire_row(time: int = 1_700_000_000_000, tid: int = 1, **changes: Any) -> Row:
    """One row of `userFillsByTime`; `changes` go by the exchange's own key names."""
    return {
        "coin": "BTC",
        "px": "42000.5",
        "sz": "0.01",
        "side": "B",
        "time": time,
        "startPosition": "0.0",
        "dir": "Open Long",
        "closedPnl": "0.0",
        "hash": f"0x{tid:064x}",
        "oid": 10_000 + tid,
        "crossed": True,
        "fee": "0.105001",
        "tid": tid,
        "feeToken": "USDC",
        "twapId": None,
        **changes,
    }


def wire_row_2023(time: int = 1_688_900_000_000, **changes: Any) -> Row:
    """A row as it was served in 2023: without `tid`, `feeToken` and `twapId`. Every call gives the same row."""
    return {name: value for name, value in wire_row(time).items() if name not in NOT_IN_2023} | changes


def broken_row(time: object, tid: int) -> Row:
    """A row that can't become a fill; its time may be readable or not."""
    return wire_row(tid=tid) | {"time": time, "px": None}


def history(times: Iterable[int]) -> list[Row]:
    """A row for each time, told apart by their `tid`: 1, 2, 3 ..."""
    return [wire_row(time, tid) for tid, time in enumerate(times, start=1)]


def bursts(sizes: Iterable[tuple[int, int]]) -> list[Row]:
    """A history of (milliseconds since the burst before, rows in one millisecond)."""
    times: list[int] = []
    now = 0
    for pause, rows in sizes:
        now += pause
        times += [now] * rows
    return history(times)


def body_of(rows: Sequence[object]) -> bytes:
    return json.dumps(rows).encode()


def page_of(rows: Sequence[object]) -> Page:
    return decode_page(body_of(rows))


def fill_of(row: Row) -> Fill:
    (fill,) = page_of([row])
    return fill


def steadily(examples: int) -> settings:
    """Settings of a property: the same examples on every machine, no database, no stop-watch."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
