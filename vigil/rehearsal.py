"""Is the table the truth? Comparing `fills`, column by column, with what a simulator says.

Reads rows in its own way and shares nothing with the decoder or the writer it checks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from vigil.claims import Window
from vigil.db import Connection, session, sql
from vigil.simulator.truth import Truth, open_truth

_NUMERIC = {
    "px": "px",
    "sz": "sz",
    "startPosition": "start_position",
    "closedPnl": "closed_pnl",
    "fee": "fee",
    "builderFee": "builder_fee",
}
_PLAIN = {
    "coin": "coin",
    "side": "side",
    "dir": "dir",
    "hash": "hash",
    "oid": "oid",
    "crossed": "crossed",
    "feeToken": "fee_token",
    "twapId": "twap_id",
    "cloid": "cloid",
}
_NAMED = {*_NUMERIC, *_PLAIN, "time", "tid", "liquidation"}


@dataclass
class Comparison:
    """Rows compared; `examples` are the first few differing ones, as (address, "missing" or "extra", row)."""

    users: int = 0
    rows: int = 0
    missing: int = 0
    extra: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.missing and not self.extra


async def compare(dsn: str, truth_url: str, window: Window) -> Comparison:
    """Compare the table in the window with the simulator at `truth_url`, user by user.

    A row that differs in a column counts as one missing and one extra. TWAP slices are expected of
    those users whose slices were read.
    """
    found = Comparison()
    async with session(dsn) as connection, open_truth(truth_url) as truth:
        known = {
            row["user_address"]: row["slices_cursor_ms"] for row in await connection.fetch(sql("list_users"), None)
        }
        async for address in truth.addresses():
            slices = known.pop(address, None) is not None
            await _compare_user(connection, truth, address, window, slices, found)
        for address, cursor_ms in known.items():
            await _compare_user(connection, truth, address, window, cursor_ms is not None, found)
    return found


async def _compare_user(
    connection: Connection, truth: Truth, address: str, window: Window, slices: bool, found: Comparison
) -> None:
    served = await truth.rows(address, window.start_ms, window.end_ms - 1, slices=slices)
    expected = Counter(_from_json(row) for row in served)
    records = await connection.fetch(sql("user_fills"), address, window.start_ms, window.end_ms)
    actual = Counter(_from_table(dict(record)) for record in records)
    found.users += 1
    found.rows += len(records)
    for name, rows in (("missing", expected - actual), ("extra", actual - expected)):
        setattr(found, name, getattr(found, name) + rows.total())
        found.examples += [(address, name, str(row)) for row in list(rows)[: 5 - len(found.examples)]]


def _from_json(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row as served, comparable: numbers by value, absent as None."""
    return (
        row["time"],
        row.get("tid"),
        *(None if row.get(name) is None else Decimal(row[name]) for name in _NUMERIC),
        *(row.get(name) for name in _PLAIN),
        _canonical(row.get("liquidation")),
        _canonical({name: value for name, value in row.items() if name not in _NAMED} or None),
    )


def _from_table(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row of `fills` in the same form; a derived (negative) tid stands for none."""
    return (
        row["time_ms"],
        row["tid"] if row["tid"] >= 0 else None,
        *(row[column] for column in _NUMERIC.values()),
        *(row[column] for column in _PLAIN.values()),
        _canonical(row["liquidation"] and json.loads(row["liquidation"], parse_float=Decimal)),
        _canonical(row["extra"] and json.loads(row["extra"], parse_float=Decimal)),
    )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
