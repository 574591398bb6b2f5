"""What an adoption has done so far, in tables of its own that exist only as long as it goes on.

Their statements are here and not in `sql/`: those must prepare against the schema, which has no such tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from vigil.adopt.rules import Unit
from vigil.db import Connection, sql

CREATE = """
CREATE TABLE IF NOT EXISTS vigil_adoption (
    way           text NOT NULL,
    mapping       jsonb NOT NULL,
    units         jsonb NOT NULL,
    received      bigint NOT NULL DEFAULT 0,
    inserted      bigint NOT NULL DEFAULT 0,
    already_there bigint NOT NULL DEFAULT 0,
    rejected      bigint NOT NULL DEFAULT 0,
    one_row       boolean PRIMARY KEY DEFAULT true CHECK (one_row)
);
COMMENT ON TABLE vigil_adoption IS 'An adoption of the table fills is under way: vigil-backfill migrate --adopt';
CREATE TABLE IF NOT EXISTS vigil_adoption_parts (
    part       text PRIMARY KEY,
    filenode   oid NOT NULL,
    blocks     bigint NOT NULL,
    next_block bigint NOT NULL DEFAULT 0,
    whole      boolean NOT NULL DEFAULT false  -- compressed: can only be read as a whole
);
CREATE TABLE IF NOT EXISTS vigil_adoption_aside (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    who    text COLLATE "C" NOT NULL,
    moment text COLLATE "C" NOT NULL,
    raw    text NOT NULL
);
CREATE INDEX IF NOT EXISTS vigil_adoption_aside_who ON vigil_adoption_aside (who, moment);
"""
_DROP = "DROP TABLE vigil_adoption_aside, vigil_adoption_parts, vigil_adoption"

NEXT_ASIDE = """
SELECT id, who, moment, raw FROM vigil_adoption_aside
WHERE (who, moment) >= ($1, $2) ORDER BY who, moment FETCH FIRST $3 ROWS WITH TIES
"""
DELETE_ASIDE = "DELETE FROM vigil_adoption_aside WHERE id = ANY ($1::bigint[])"
PARTS_LEFT = "SELECT * FROM vigil_adoption_parts WHERE next_block < blocks ORDER BY part"
PART_DONE = "UPDATE vigil_adoption_parts SET next_block = $2 WHERE part = $1"


@dataclass(slots=True)
class Counts:
    """Rows: received = inserted + already_there + rejected, once nothing is aside any more."""

    received: int = 0
    inserted: int = 0
    already_there: int = 0
    rejected: int = 0

    def add(self, other: Counts) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


async def begin(connection: Connection, way: str, mapping: Mapping[str, str], units: Mapping[str, Unit]) -> None:
    """In the transaction of the first change: from here on nothing else may use `fills` but the adoption."""
    await connection.execute("SET LOCAL client_min_messages = warning")
    await connection.execute(CREATE)
    await connection.execute(
        "INSERT INTO vigil_adoption (way, mapping, units) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        way,
        json.dumps(dict(mapping)),
        json.dumps(dict(units)),
    )


@dataclass(frozen=True, slots=True)
class Begun:
    """How an adoption under way began."""

    way: str
    mapping: dict[str, str]
    units: dict[str, Unit]


async def read(connection: Connection) -> Begun | None:
    """The adoption under way, if one is."""
    if not await connection.fetchval(sql("adopt_under_way")):
        return None
    row = await connection.fetchrow("SELECT way, mapping, units FROM vigil_adoption")
    assert row is not None  # noqa: S101  written with the table
    units: dict[str, str] = json.loads(row["units"])
    return Begun(row["way"], json.loads(row["mapping"]), {ours: Unit(unit) for ours, unit in units.items()})


async def rows_left(connection: Connection) -> tuple[int, int]:
    """Blocks that are still to be copied, and rows that are aside."""
    blocks = await connection.fetchval("SELECT coalesce(sum(blocks - next_block), 0)::bigint FROM vigil_adoption_parts")
    return blocks, await connection.fetchval("SELECT count(*) FROM vigil_adoption_aside")


async def add(connection: Connection, counts: Counts) -> None:
    """In the transaction of what is counted."""
    await connection.execute(
        "UPDATE vigil_adoption SET received = received + $1, inserted = inserted + $2,"
        " already_there = already_there + $3, rejected = rejected + $4",
        counts.received,
        counts.inserted,
        counts.already_there,
        counts.rejected,
    )


async def totals(connection: Connection) -> Counts:
    row = await connection.fetchrow("SELECT received, inserted, already_there, rejected FROM vigil_adoption")
    assert row is not None  # noqa: S101  written with the table
    return Counts(*row)


async def end(connection: Connection) -> None:
    """The adoption is over."""
    await connection.execute(_DROP)
