"""Tables of `fills` as others made them, filled with the same logical rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from tests.kit.factories import Row, wire_row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
USERS = tuple(f"0x{number:040x}" for number in (0xA1, 0xB2, 0xC3, 0xDEADBEEF))
TIME = 1_735_700_000_000

AMOUNTS = ("px", "sz", "startPosition", "closedPnl", "fee", "builderFee")
OURS = {
    "user": "user_address", "time": "time", "coin": "coin", "side": "side", "px": "px", "sz": "sz",
    "startPosition": "start_position", "dir": "dir", "closedPnl": "closed_pnl", "hash": "hash", "oid": "oid",
    "crossed": "crossed", "fee": "fee", "tid": "tid", "feeToken": "fee_token", "twapId": "twap_id", "cloid": "cloid",
    "builderFee": "builder_fee", "liquidation": "liquidation",
}  # fmt: skip
Values = tuple[Any, ...]


def trades(count: int, *, start: int = TIME) -> list[Row]:
    """Trades between two users each, so two rows with one tid; some with what only some rows have."""
    rows: list[Row] = []
    for number in range(count):
        users = USERS[number % 4], USERS[(number + 1) % 4]
        for side, user in zip("BA", users, strict=True):
            row = wire_row(start + 40_000_123 * number, 1000 + number, user=user, side=side, px=f"{number}.5")
            row |= {"oid": 50_000 + 2 * number + (side == "A"), "startPosition": f"-{number}.25", "sz": "10.0"}
            if number % 5 == 0:
                row |= {"cloid": f"0x{number:032x}", "builderFee": "0.01", "twapId": 7}
            if number % 7 == 0:
                row["liquidation"] = {"liquidatedUser": user, "markPx": "1.5", "method": "market"}
            rows.append(row)
    return rows


@dataclass(frozen=True)
class Foreign:
    """Somebody's table: `columns` are (wire name, their name, their type); `after` are more statements."""

    name: str
    columns: Sequence[tuple[str, str, str]]
    constraints: str = ""
    partition: str = ""
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    setting: str = ""
    way: str = "copy"

    @property
    def ddl(self) -> str:
        parts = [f'"{theirs}" {kind}' for _, theirs, kind in self.columns]
        return f"CREATE TABLE fills ({', '.join([*parts, *filter(None, [self.constraints])])}) {self.partition}"

    async def create(self, url: str, rows: Sequence[Row]) -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in (*self.before, self.ddl):
                await connection.execute(statement)
            if self.partition:
                await connection.execute("CREATE TABLE fills_all PARTITION OF fills DEFAULT")
            for statement in self.after:
                await connection.execute(statement)
            await self.insert(connection, rows)
        finally:
            await connection.close()

    async def insert(self, connection: asyncpg.Connection[asyncpg.Record], rows: Sequence[Row]) -> None:
        listed = [one for one in self.columns if one[0]]
        names = ", ".join(f'"{theirs}"' for _, theirs, _ in listed)
        casts = ", ".join(f"${place}::text::{_cast(kind)}" for place, (_, _, kind) in enumerate(listed, start=1))
        values = [[_written(row, wire, kind) for wire, _, kind in listed] for row in rows]
        await connection.executemany(f"INSERT INTO fills ({names}) VALUES ({casts}) ON CONFLICT DO NOTHING", values)


def _cast(kind: str) -> str:
    return kind.split(" COLLATE")[0].split(" NOT NULL")[0].split(" UNIQUE")[0].split(" PRIMARY")[0]


def _written(row: Row, wire: str, kind: str) -> str | None:
    """The value as text that Postgres takes for `kind`."""
    if wire in ("time", "block_time"):
        moment = row["time"] if wire == "time" else row["time"] + 150
        if kind.startswith("timestamp"):
            return (EPOCH + timedelta(milliseconds=moment)).isoformat()
        if wire == "time" and "/*iso*/" in kind:
            return (EPOCH + timedelta(milliseconds=moment)).isoformat().replace("+00:00", "Z")
        return str(moment * (1_000_000 if "/*ns*/" in kind else 1))
    value = row.get(wire)
    if value is None:
        return None
    if isinstance(value, dict):
        return json.dumps(value)
    if kind.startswith("bytea"):
        return "\\x" + str(value).removeprefix("0x")
    return str(value).lower() if isinstance(value, bool) else str(value)


def expected(rows: Sequence[Row]) -> list[Values]:
    """The rows as our table must hold them."""
    return sorted((_comparable({ours: row.get(wire) for wire, ours in OURS.items()}) for row in rows), key=repr)


async def held(url: str) -> list[Values]:
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT *, (extract(epoch FROM time) * 1000)::bigint AS ms FROM fills"
        rows = [dict(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()
    return sorted((_comparable({**row, "time": row["ms"]}) for row in rows), key=repr)


def _comparable(row: dict[str, Any]) -> Values:
    values = []
    for wire, ours in OURS.items():
        value = row[ours]
        if value is not None and wire in AMOUNTS:
            value = Decimal(str(value)).normalize()
        if value is not None and wire == "liquidation":
            value = json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True)
        values.append(value)
    return tuple(values)


def columns(
    types: dict[str, str], names: dict[str, str] | None = None, /, **default: str
) -> list[tuple[str, str, str]]:
    """A column for every key of the wire: `types` by wire name, else by kind of value."""
    names = names or {}
    chosen = []
    for wire, ours in OURS.items():
        kind = "amount" if wire in AMOUNTS else "whole" if wire in ("oid", "tid", "twapId") else wire
        chosen.append(
            (wire, names.get(wire, ours), types.get(wire) or default.get(kind) or default.get("text", "text"))
        )
    return chosen


NORMAL = {"amount": "numeric", "whole": "bigint", "crossed": "boolean", "liquidation": "jsonb", "time": "timestamptz"}
C_COLLATED = dict.fromkeys(("user", "coin", "side"), 'text COLLATE "C"')
CAMEL = {wire: wire for wire in OURS}

RENAMED = Foreign(
    "names, modifiers and collations differ",
    [
        *columns({"coin": "varchar(40)", "px": "numeric(30,10)", "time": "timestamptz(3) NOT NULL"}, CAMEL, **NORMAL),
        ("", "block_number", "bigint"),
        ("", "id", "bigserial PRIMARY KEY"),
    ],
    way="in_place",
)
UNIQUE_TID = Foreign(
    "a unique index on (user, tid)",
    columns({"user": "text NOT NULL", "tid": "bigint NOT NULL"}, {"user": "user"}, **NORMAL),
    constraints='UNIQUE ("user", tid)',
    way="in_place",
)
BIGINT_TIME = Foreign(
    "the time in bigint ms",
    [*columns({"time": "bigint"}, {}, **NORMAL), ("block_time", "block_time", "timestamptz")],
)
FLOATS = Foreign(
    "amounts in floats",
    columns({"px": "real"}, {}, **NORMAL | {"amount": "double precision"}),
)
ALL_TEXT = Foreign("everything in text", columns({"time": "text /*iso*/"}, CAMEL))
BINARY = Foreign(
    "addresses and hashes in bytea, the time in ns, integers in numeric",
    columns(
        {"user": "bytea", "hash": "bytea", "time": "bigint /*ns*/", "liquidation": "json"},
        {"time": "time_ns", "user": "trader"},
        **NORMAL | {"whole": "numeric"},
    ),
    setting="time=time_ns",
)
PARTITIONED = Foreign("partitioned by coin", columns({}, {}, **NORMAL), partition="PARTITION BY LIST (coin)")
LOCAL_TIME = Foreign("the time without a zone", columns({"time": "timestamp"}, {}, **NORMAL), way="in_place")
PLANNED = Foreign(
    "the original plan's",
    [
        *columns({"time": "bigint", "tid": "bigint UNIQUE"}, {}, **NORMAL),
        ("block_time", "block_time", "timestamptz"),
    ],
)
SHAPES = (RENAMED, UNIQUE_TID, BIGINT_TIME, FLOATS, ALL_TEXT, BINARY, PARTITIONED, LOCAL_TIME)
