"""Reading what a `fills` table is: its shape from the catalog, facts from a look at its rows. Changes nothing."""

# ruff: noqa: S608  names of their tables and columns vary, and are quoted

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from enum import Enum
from typing import Any

from vigil.adopt.rules import Rule, Unit, unit_of
from vigil.adopt.shape import KEY, OLD_TABLE, REQUIRED, Column, Facts, Hypertable, Index, Shape, quoted
from vigil.db import Connection, sql
from vigil.errors import SchemaMismatch
from vigil.migrate import has_timescaledb

EXACT_ROWS = 2_000_000
"""Up to so many rows (by the server's estimate) a look without need to be exact reads all."""
SAMPLE_ROWS = 500_000
ROW_BYTES = 300
"""What a row is taken to need where the server has no estimate of their number: nobody has analysed the table yet."""
LOOK_SECONDS = 60
"""For each part of a look that need not be exact; what takes longer is told as not looked at."""
TIMES = 2000


class Look(Enum):
    """What a look at the rows is for."""

    FIRST = "first"  # which way to go: some rows will do
    EXACT = "exact"  # what is to be done in place: all rows
    FOR_PEOPLE = "for people"  # what they should know as well, as far as it can be told in time


# TimescaleDB's own views: they exist only where it does, so these can't be files of `sql/`, which all prepare anywhere.
_HYPERTABLE = """
SELECT
    (SELECT array_agg(d.column_name::text ORDER BY d.dimension_number) FROM timescaledb_information.dimensions AS d
     WHERE d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name) AS dimensions,
    (SELECT coalesce(d.time_interval::text, d.integer_interval::text) FROM timescaledb_information.dimensions AS d
     WHERE d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name
        AND d.dimension_number = 1) AS interval,
    h.num_chunks AS chunks,
    (SELECT count(*) FROM timescaledb_information.chunks AS c
     WHERE c.hypertable_schema = h.hypertable_schema AND c.hypertable_name = h.hypertable_name AND c.is_compressed)
        AS compressed_chunks,
    EXISTS (SELECT FROM timescaledb_information.jobs AS j
        WHERE j.hypertable_schema = h.hypertable_schema AND j.hypertable_name = h.hypertable_name
        AND j.proc_name = 'policy_retention') AS retention,
    ARRAY (SELECT format('%I.%I', a.view_schema, a.view_name) FROM timescaledb_information.continuous_aggregates AS a
        WHERE a.hypertable_schema = h.hypertable_schema AND a.hypertable_name = h.hypertable_name) AS aggregates
FROM timescaledb_information.hypertables AS h
WHERE format('%I.%I', h.hypertable_schema, h.hypertable_name)::regclass = to_regclass($1)
"""

# Before it is in use its library tells no edition, and defines but a few of its settings (see `migrate`).
_OFFERED = """
SELECT coalesce(current_setting('timescaledb.license', true), 'not in use yet')
WHERE EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
    AND EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb.%')
"""


async def read_shape(connection: Connection, table: str = "fills") -> Shape | None:
    """The shape of `table`; None when there is no such table."""
    found = await connection.fetchrow(sql("adopt_table"), table)
    if found is None:
        return None
    seen: dict[str, Any] = dict(found)
    del seen["oid"]
    seen["size_bytes"] = seen.pop("bytes")
    hypertable, edition = await _read_timescaledb(connection, table)
    if hypertable is not None or seen["kind"] == "p":
        seen["inherits"] = False
    if hypertable is not None:
        seen["views"] = []  # those of the aggregates, and they are named there
        seen["size_bytes"] = await connection.fetchval("SELECT hypertable_size(to_regclass($1))", table)
        seen["rows"] = await connection.fetchval("SELECT approximate_row_count(to_regclass($1))", table)
    seen["rows"] = seen["rows"] or seen["size_bytes"] // ROW_BYTES
    rest: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in seen.items()}
    columns = [Column(**dict(row)) for row in await connection.fetch(sql("adopt_columns"), table)]
    indexes = [Index(**_tuples(row)) for row in await connection.fetch(sql("adopt_indexes"), table)]
    return Shape(
        columns=tuple(columns),
        indexes=tuple(indexes),
        hypertable=hypertable,
        timescaledb=edition,
        old_table=table != OLD_TABLE and await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", OLD_TABLE),
        workers=await _workers(connection),
        under_way=await connection.fetchval(sql("adopt_under_way")),
        **rest,
    )


async def _read_timescaledb(connection: Connection, table: str) -> tuple[Hypertable | None, str | None]:
    if not await has_timescaledb(connection):
        return None, await connection.fetchval(_OFFERED)  # taken into use by the migrations
    edition = await connection.fetchval("SHOW timescaledb.license")
    found = await connection.fetchrow(_HYPERTABLE, table)
    if found is None:
        return None, edition
    return Hypertable(column=found["dimensions"][0], **_tuples(found)), edition


def _tuples(row: Any) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


async def _workers(connection: Connection) -> int:
    if await connection.fetchval("SELECT to_regclass('backfill_workers')") is None:
        return 0
    return int(await connection.fetchval(sql("adopt_workers")))


async def read_units(connection: Connection, shape: Shape, mapping: Mapping[str, str], table: str) -> dict[str, Unit]:
    """What times in numbers count. Raises: SchemaMismatch where it can't be told, or is too coarse."""
    units: dict[str, Unit] = {}
    for ours in ("time", "block_time"):
        if ours not in mapping:
            continue
        column = shape.column(mapping[ours])
        if column.category not in "NS":
            continue
        name = quoted(column.name)
        query = f"SELECT {name}::text AS seen FROM {quoted(table)} WHERE {name} IS NOT NULL LIMIT {TIMES}"
        seen = [row["seen"] for row in await connection.fetch(query)]
        if column.category == "S" and not all(one.isdecimal() for one in seen):
            continue
        unit = unit_of([number for one in seen if (number := _number(one)) is not None])
        if unit is None or (unit is Unit.SECONDS and ours == "time"):
            why = "seconds: without the exchange's milliseconds no row of it can be known again"
            raise SchemaMismatch(
                f"The table `fills` can't be adopted: {column.name} is {'of no clear unit' if unit is None else why}.",
                hint="Expected milliseconds, microseconds or nanoseconds since 1970. If another column is the time,"
                " name it in VIGIL_FILLS_COLUMNS; else rename the table, and load the archives: vigil-backfill load.",
            )
        units[ours] = unit
    return units


def _number(text: str) -> int | None:
    try:
        return int(Decimal(text))
    except (ArithmeticError, ValueError, OverflowError):
        return None


async def read_facts(
    connection: Connection, shape: Shape, mapping: Mapping[str, str], rules: Mapping[str, Rule], *, look: Look
) -> Facts:
    """Look at the rows of `fills`."""
    exact = look is Look.EXACT
    sampled = not exact and shape.rows > EXACT_ROWS
    source = "fills AS f"
    if sampled:
        source += f" TABLESAMPLE SYSTEM ({100 * SAMPLE_ROWS / shape.rows:.6f})"
    query = _count_query(source, mapping, rules)
    counts = await _patiently(connection, lambda: connection.fetchrow(query), exact)
    if counts is None:
        return Facts(sampled=True)
    facts = Facts(
        rows=counts["rows"],
        sampled=sampled,
        without_tid=counts["without_tid"],
        mixed_case=counts["mixed_case"],
        whole_seconds=counts["whole_seconds"],
        odd=counts["odd"],
        unfit={ours: counts[f"unfit_{ours}"] for ours in rules if counts[f"unfit_{ours}"]},
    )
    if not facts.mixed_case and any(_forbids_duplicates(one, shape, mapping) for one in shape.indexes):
        facts = replace(facts, duplicates=0)
    elif look is Look.FOR_PEOPLE or (exact and shape.hypertable is not None and shape.hypertable.compressed_chunks):
        # Elsewhere the index on the key finds them; it does not look into compressed chunks.
        query = _duplicates_query(mapping)
        facts = replace(facts, duplicates=await _patiently(connection, lambda: connection.fetchval(query), exact))
    if look is not Look.FOR_PEOPLE or "tid" not in mapping:
        return facts
    query = _one_sided_query(quoted(mapping["tid"]), shape)
    return replace(facts, one_sided=await _patiently(connection, lambda: connection.fetchval(query), exact))


def _count_query(source: str, mapping: Mapping[str, str], rules: Mapping[str, Rule]) -> str:
    looks, flags = [], []
    for ours, one in rules.items():
        none = f"f.{quoted(mapping[ours])} IS NULL"
        unfit = "false" if one.fits is None else f"({one.fits}) IS FALSE"
        looks.append(f"{none} AS {quoted(f'no_{ours}')}, {unfit} AS {quoted(f'bad_{ours}')}")
        flag = f"look.{quoted(f'bad_{ours}')}"
        flags.append(f"look.{quoted(f'no_{ours}')} OR {flag}" if ours in REQUIRED else flag)
    without_tid = 'look."no_tid"' if "tid" in rules else "true"
    odd = " OR ".join([*flags, without_tid])
    spelt = " OR ".join(
        f"f.{quoted(mapping[ours])}::text IS DISTINCT FROM ({rules[ours].value})" for ours in ("user_address", "side")
    )
    moment = f'CASE WHEN NOT look."bad_time" THEN {rules["time"].value} END'
    unfit_counts = [
        f"count(*) FILTER (WHERE {flag}) AS {quoted(f'unfit_{ours}')}" for ours, flag in zip(rules, flags, strict=True)
    ]
    return (
        f"SELECT count(*) AS rows, count(*) FILTER (WHERE {without_tid}) AS without_tid,"
        f" count(*) FILTER (WHERE NOT ({odd}) AND ({spelt})) AS mixed_case,"
        f" count(*) FILTER (WHERE date_trunc('second', {moment}) = {moment}) AS whole_seconds,"
        f" count(*) FILTER (WHERE {odd}) AS odd, {', '.join(unfit_counts)}"
        f" FROM {source} CROSS JOIN LATERAL (SELECT {', '.join(looks)} OFFSET 0) AS look"
    )


def _duplicates_query(mapping: Mapping[str, str]) -> str:
    """Rows beyond the first of their key, as they are spelt."""
    parts = [f"f.{quoted(mapping[ours])}" for ours in KEY if ours in mapping]
    return (
        "SELECT coalesce(sum(n - 1), 0)::bigint FROM (SELECT count(*) AS n FROM fills AS f"
        f" WHERE {parts[-2]} IS NOT NULL GROUP BY {', '.join(parts)} HAVING count(*) > 1) AS keys"
    )


def _one_sided_query(tid: str, shape: Shape) -> str:
    """The share of trades of which one side alone is there, of those whose `tid` hashes into a sample."""
    every = max(1, shape.rows // SAMPLE_ROWS)
    return (
        "SELECT count(*) FILTER (WHERE n = 1)::float8 / nullif(count(*), 0) FROM ("
        f"SELECT count(*) AS n FROM fills AS f WHERE f.{tid}::text > '0' AND hashtext(f.{tid}::text) % {every} = 0"
        f" GROUP BY f.{tid}) AS trades"
    )


def _forbids_duplicates(index: Index, shape: Shape, mapping: Mapping[str, str]) -> bool:
    """Whether it is unique on a part of the key, so that no two rows can have the whole of it."""
    whole = {mapping[ours] for ours in KEY if ours in mapping}
    usable = index.valid and not index.partial and bool(index.columns) and set(index.columns) <= whole
    return usable and all(shape.column(name).not_null for name in index.columns)


async def _patiently(connection: Connection, ask: Callable[[], Awaitable[Any]], exact: bool) -> Any:
    """What `ask` answers; None when it took too long and need not be known exactly."""
    if exact:
        return await ask()
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = '{LOOK_SECONDS}s'")
            return await ask()
    except Exception as error:
        if getattr(error, "sqlstate", None) == "57014":  # query_canceled: the timeout
            return None
        raise
