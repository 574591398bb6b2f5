"""A page's rows as one gets them by hand: the standard library's JSON, exact `Decimal`s, datetimes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from vigil.copy_text import COPY_COLUMNS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WIRE_NAMES = (
    "time", "coin", "side", "px", "sz", "startPosition", "closedPnl", "fee", "dir", "hash", "oid", "crossed",
    "feeToken", "tid", "twapId", "cloid", "builderFee", "liquidation",
)  # fmt: skip

AsJson = Callable[[Any], Any]


def rows(user: str, body: bytes, as_json: AsJson = json.dumps) -> Iterator[tuple[Any, ...]]:
    """Tuples in the order of COPY_COLUMNS; `as_json` is how the driver wants its jsonb."""
    known, last, seq = set(WIRE_NAMES), -1, 0
    for row in json.loads(body):
        seq = seq + 1 if row["time"] == last else 0
        last = row["time"]
        beyond = {name: row[name] for name in row.keys() - known}
        built, liquidation = row.get("builderFee"), row.get("liquidation")
        yield (
            user,
            EPOCH + timedelta(milliseconds=last),
            row["coin"],
            row["side"],
            Decimal(row["px"]),
            Decimal(row["sz"]),
            Decimal(row["startPosition"]),
            Decimal(row["closedPnl"]),
            Decimal(row["fee"]),
            row["dir"],
            row["hash"],
            row["oid"],
            row["crossed"],
            row.get("feeToken"),
            row["tid"],
            row.get("twapId"),
            row.get("cloid"),
            None if built is None else Decimal(built),
            seq,
            None if liquidation is None else as_json(liquidation),
            as_json(beyond) if beyond else None,
            None,
        )


def dicts(user: str, body: bytes) -> list[dict[str, Any]]:
    """The same by column, jsonb as Python has it."""
    return [dict(zip(COPY_COLUMNS, row, strict=True)) for row in rows(user, body, lambda value: value)]
