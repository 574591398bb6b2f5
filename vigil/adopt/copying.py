"""Adopting by copy: the old table is renamed and stays, its rows go into a new one in steps.

A step is some blocks of the old table (nobody writes to it any more, so a block stays what it is) and one
transaction: rows staged as ours, the odd ones aside, the rest taken in, and the place where to go on.
"""

# ruff: noqa: S608  names of their tables and columns vary, and are quoted

from __future__ import annotations

from collections.abc import Callable

from vigil.adopt import state
from vigil.adopt.convert import Theirs
from vigil.adopt.in_place import STEP_BLOCKS, Tell, locked
from vigil.adopt.intake import FITS, RAW, Intake, row_refused
from vigil.adopt.plan import Plan
from vigil.adopt.rules import Rule, row_fits
from vigil.adopt.shape import OLD_TABLE, quoted
from vigil.db import Connection, sql
from vigil.errors import StoreError
from vigil.migrate import migrations

# TimescaleDB's own: see `inspect`.
_COMPRESSED = """
UPDATE vigil_adoption_parts SET whole = true, blocks = 1
FROM timescaledb_information.chunks AS c
WHERE part = format('%I.%I', c.chunk_schema, c.chunk_name) AND c.is_compressed
"""
_PAUSE_JOBS = """
SELECT alter_job(j.job_id, scheduled => false) FROM timescaledb_information.jobs AS j
WHERE (j.hypertable_schema, j.hypertable_name) = (
    SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('fills')
)
"""


async def rename(connection: Connection, plan: Plan, tell: Tell) -> None:
    """The old table steps aside, and its parts are listed: one transaction."""

    async def attempt() -> None:
        await connection.execute("LOCK TABLE fills IN ACCESS EXCLUSIVE MODE")
        if plan.shape.hypertable is not None:
            await connection.execute(_PAUSE_JOBS)  # a chunk that is compressed or dropped meanwhile would be missed
        await connection.execute(f"ALTER TABLE fills RENAME TO {OLD_TABLE}")
        if "fills_pkey" in {one.name for one in plan.shape.indexes}:
            await connection.execute(f"ALTER INDEX fills_pkey RENAME TO {OLD_TABLE}_pkey")
        await state.begin(connection, plan.way, plan.mapping, plan.units)
        for row in await connection.fetch(sql("adopt_parts"), OLD_TABLE):
            await connection.execute(
                "INSERT INTO vigil_adoption_parts (part, filenode, blocks) VALUES ($1, $2, $3)",
                row["part"],
                row["filenode"],
                row["blocks"],
            )
        if plan.shape.hypertable is not None:
            await connection.execute(_COMPRESSED)

    await locked(connection, attempt, tell)


async def create_again(connection: Connection) -> None:
    """The new `fills`, where the migration that makes it was applied long ago."""
    if await connection.fetchval("SELECT to_regclass('fills') IS NULL"):
        async with connection.transaction():
            # What follows in that file are other tables; an applied file never changes.
            await connection.execute(migrations()[0].sql.split("-- Rows of an answer")[0])


class Copy:
    """The steps. `theirs` and `rules` speak of the old table."""

    def __init__(
        self, intake: Intake, theirs: Theirs, rules: dict[str, Rule], *, step_blocks: int = STEP_BLOCKS
    ) -> None:
        self._intake = intake
        self._step_blocks = step_blocks
        given = {ours: one.value for ours, one in rules.items()}
        if theirs.unknown:
            pairs = ", ".join(f"'{name.replace(chr(39), chr(39) * 2)}', f.{quoted(name)}" for name in theirs.unknown)
            unknown = f"nullif(jsonb_strip_nulls(jsonb_build_object({pairs})), '{{}}')"
            own = given.get("extra")
            given["extra"] = unknown if own is None else f"coalesce({unknown} || ({own}), {unknown}, {own})"
        fits = row_fits(rules, theirs.mapping)
        listed = ", ".join(map(quoted, given))
        values = ", ".join(f"CASE WHEN look.fits THEN {value} END" for value in given.values())
        who, moment = (f"f.{quoted(theirs.mapping[ours])}::text" for ours in ("user_address", "time"))
        self._stage = (
            f"INSERT INTO adopt_step ({listed}, {FITS}, {RAW})"
            f" SELECT {values}, look.fits, CASE WHEN NOT look.fits THEN row_to_json(f)::text END"
            f" FROM #part AS f CROSS JOIN LATERAL (SELECT {fits} AS fits OFFSET 0) AS look WHERE #where"
        )
        columns = "SELECT coalesce(lower({}), ''), coalesce({}, ''), {} FROM {}"
        into = "INSERT INTO vigil_adoption_aside (who, moment, raw) "
        self._whole_aside = into + columns.format(who, moment, "row_to_json(f)::text", "#part AS f WHERE #where")
        json_who, json_moment = (
            f"{RAW}::json ->> '{theirs.mapping[ours].replace(chr(39), chr(39) * 2)}'"
            for ours in ("user_address", "time")
        )
        self._odd_aside = into + columns.format(json_who, json_moment, RAW, f"adopt_step WHERE NOT {FITS}")

    async def run(self, connection: Connection, done: Callable[[int], object]) -> None:
        """Copy what is left; `done` is told the rows of each step. Raises: StoreError when the old table changed."""
        files = {row["part"]: row["filenode"] for row in await connection.fetch(sql("adopt_parts"), OLD_TABLE)}
        for row in await connection.fetch(state.PARTS_LEFT):
            part, blocks, first = row["part"], row["blocks"], row["next_block"]
            if files.get(part) != row["filenode"]:
                raise StoreError(
                    f"{part} of `{OLD_TABLE}` was rewritten or dropped while it is being copied.",
                    hint="docs/adopt.md tells how to begin the copy anew.",
                )
            while first < blocks:
                end = blocks if row["whole"] else min(first + self._step_blocks, blocks)
                where = "true" if row["whole"] else f"f.ctid >= '({first},0)'::tid AND f.ctid < '({end},0)'::tid"
                async with connection.transaction():
                    received = await self._step(connection, part, where)
                    await connection.execute(state.PART_DONE, part, end)
                done(received)
                first = end

    async def _step(self, connection: Connection, part: str, where: str) -> int:
        try:
            async with connection.transaction():
                await connection.execute("TRUNCATE adopt_step")
                status = await connection.execute(_fill(self._stage, part, where))
                received = int(status.rsplit(" ", 1)[1])
                odd = int((await connection.execute(self._odd_aside)).rsplit(" ", 1)[1])
                counts = await self._intake.take(connection, received - odd)
        except Exception as error:
            if not row_refused(error):
                raise
            # One row spoils the step: all of it is looked at row by row.
            status = await connection.execute(_fill(self._whole_aside, part, where))
            counts = state.Counts(received=int(status.rsplit(" ", 1)[1]))
            await state.add(connection, counts)
            return counts.received
        counts.received = received
        await state.add(connection, counts)
        return received


def _fill(statement: str, part: str, where: str) -> str:
    return statement.replace("#part", part, 1).replace("#where", where, 1)


async def account(connection: Connection) -> state.Counts:
    """The counts, if they add up to the rows of the old table. Raises: StoreError."""
    counts = await state.totals(connection)
    rows = await connection.fetchval(f"SELECT count(*) FROM {OLD_TABLE}")
    if not rows == counts.received == counts.inserted + counts.already_there + counts.rejected:
        raise StoreError(
            f"`{OLD_TABLE}` has {rows} rows, but {counts} were accounted for: it was changed while it was copied.",
            hint="docs/adopt.md tells how to begin the copy anew.",
        )
    return counts
