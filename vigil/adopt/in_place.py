"""Adopting a table as it lies: the catalog is changed, the few rows that must be are, and the key's index is built.

Every stage finds out by itself what is left of it, so a killed adoption begins again at the top.
"""

# ruff: noqa: S608  names of their tables and columns vary, and are quoted

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from vigil.adopt import state
from vigil.adopt.plan import KEY_INDEX, Plan
from vigil.adopt.rules import row_fits
from vigil.adopt.shape import KEY, quoted
from vigil.db import Connection, sql
from vigil.errors import StoreError, StoreUnavailable
from vigil.migrate import has_timescaledb

Tell = Callable[[str], object]

STEP_BLOCKS = 1024
"""Blocks (8 kB) a step: some 30,000 rows, well under a second."""

LOCK_TRIES, LOCK_SECONDS = 12, 5
KEY_TRIES = 5
LONG_COIN = 1000
"""Bytes; an index takes no row beyond some 2,700. Those in between come back."""
_TWICE, _TOO_LARGE = "23505", "54000"  # unique_violation, program_limit_exceeded
_KEY = ", ".join(map(quoted, KEY))


async def change_catalog(connection: Connection, plan: Plan, tell: Tell) -> None:
    """All statements on the catalog, and the mark that an adoption is under way, in one transaction."""

    async def attempt() -> None:
        await state.begin(connection, plan.way, plan.mapping, plan.units)
        for statement in plan.changes:
            await connection.execute(statement)

    await locked(connection, attempt, tell)


async def locked(connection: Connection, attempt: Callable[[], Awaitable[None]], tell: Tell) -> None:
    """Run `attempt` in a transaction, which needs `fills` for itself; give way to others in between.

    Raises: StoreUnavailable when others hold the table for too long.
    """
    for _ in range(LOCK_TRIES):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                await attempt()
                return
        except Exception as error:
            if getattr(error, "sqlstate", None) != "55P03":  # lock_not_available
                raise
        tell("waiting for others to let go of `fills`")
    raise StoreUnavailable(
        f"Others have held the table `fills` for more than {LOCK_TRIES * LOCK_SECONDS} s; nothing was changed.",
        hint="Run it again when their transactions are over: pg_stat_activity shows them.",
    )


async def spell(connection: Connection, plan: Plan, *, step_blocks: int = STEP_BLOCKS) -> None:
    """Addresses in lower case, sides in one letter."""
    spelt = {ours: plan.rules[ours] for ours in ("user_address", "side")}
    differing = " OR ".join(f"f.{ours} <> {one.guarded}" for ours, one in spelt.items())
    values = ", ".join(f"{ours} = coalesce({one.guarded}, f.{ours})" for ours, one in spelt.items())
    for part, first, end in await _ranges(connection, step_blocks):
        where = _between(first, end)
        await connection.execute(f"UPDATE {part} AS f SET {values} WHERE {where} AND ({differing})")


async def put_aside(connection: Connection, plan: Plan, *, step_blocks: int = STEP_BLOCKS) -> None:
    """Rows that must be looked at one by one leave the table, until the key is there."""
    fits = row_fits(plan.rules, plan.mapping)
    for part, first, end in await _ranges(connection, step_blocks):
        await _move(connection, part, f"{_between(first, end)} AND NOT ({fits})")


async def build_key(connection: Connection, plan: Plan) -> None:
    """The unique index on the key; rows beyond the first of their key are put aside when it meets some.

    Raises: StoreError when somebody adds duplicates faster than they are put aside.
    """
    concurrently = "CONCURRENTLY " if plan.shape.hypertable is None else ""
    for _ in range(KEY_TRIES):
        try:
            await connection.execute(f"CREATE UNIQUE INDEX {concurrently}{KEY_INDEX} ON fills ({_KEY})")
            return
        except Exception as error:
            reason = getattr(error, "sqlstate", None)
            if reason not in (_TWICE, _TOO_LARGE):
                raise
        await connection.execute(f"DROP INDEX IF EXISTS {KEY_INDEX}")  # what a failed CONCURRENTLY leaves
        async with connection.transaction():
            if reason == _TWICE:
                await _put_aside_duplicates(connection)
            else:
                for row in await connection.fetch(sql("adopt_parts"), "fills"):
                    await _move(connection, row["part"], f"octet_length(f.coin) > {LONG_COIN}")
    raise StoreError(
        "The key's index can't be built: somebody goes on adding rows twice.", hint="Stop whoever writes to `fills`."
    )


async def make_hypertable(connection: Connection, tell: Tell) -> None:
    """What the first migration does to an empty table; nothing where TimescaleDB could not be taken into use."""
    if not await has_timescaledb(connection):
        tell("`fills` stays a plain table: TimescaleDB is not in use in this database")
        return
    tell("turning the table into a hypertable")
    await connection.execute(
        "SELECT create_hypertable('fills', 'time', chunk_time_interval => INTERVAL '30 days',"
        " create_default_indexes => false, migrate_data => true, if_not_exists => true)"
    )


async def _put_aside_duplicates(connection: Connection) -> None:
    """All rows of a key but the first; NULLs are no keys."""
    await connection.execute(
        "CREATE TEMP TABLE adopt_twice ON COMMIT DROP AS SELECT part, place FROM ("
        " SELECT tableoid AS part, ctid AS place,"
        f" row_number() OVER (PARTITION BY {_KEY} ORDER BY tableoid, ctid) AS nth FROM fills) AS numbered WHERE nth > 1"
    )
    for row in await connection.fetch(sql("adopt_parts"), "fills"):
        twice = f"f.ctid IN (SELECT place FROM adopt_twice WHERE part = {row['oid']})"
        await _move(connection, row["part"], twice)


async def _move(connection: Connection, part: str, where: str) -> None:
    await connection.execute(
        f"WITH moved AS (DELETE FROM {part} AS f WHERE {where} RETURNING f.user_address, f.time, row_to_json(f) AS raw)"
        " INSERT INTO vigil_adoption_aside (who, moment, raw)"
        " SELECT coalesce(lower(user_address), ''), coalesce(time::text, ''), raw::text FROM moved"
    )


async def _ranges(connection: Connection, step_blocks: int) -> Sequence[tuple[str, int, int]]:
    parts = await connection.fetch(sql("adopt_parts"), "fills")
    return [
        (row["part"], first, first + step_blocks) for row in parts for first in range(0, row["blocks"], step_blocks)
    ]


def _between(first: int, end: int) -> str:
    return f"f.ctid >= '({first},0)'::tid AND f.ctid < '({end},0)'::tid"
