"""Taking rows into `fills`: staged ones in one go, and those that were put aside one by one.

A row whose key is there already is looked at: it says the same (already there), it knows what the other
leaves empty (that is filled in), or it contradicts (rejected, raw). Nothing known is overwritten.
"""

# ruff: noqa: S608  names of their tables and columns vary, and are quoted

from __future__ import annotations

from collections.abc import Sequence

from vigil.adopt import state
from vigil.adopt.convert import Judged, Theirs, judge, to_json
from vigil.adopt.shape import KEY, Column, quoted
from vigil.adopt.state import Counts
from vigil.db import Connection
from vigil.fills import Rejected
from vigil.store import FILLS_COLUMNS, store_rejected

BATCH_ROWS = 2000
FITS, RAW = "vigil_fits", "vigil_raw"
"""Columns of `adopt_step` beside those of `fills`, which may have strange ones: names that nobody else gives."""
_COMPARABLE = "BDEINSTV"
"""Categories of types of which all have an equality."""
_ROW_REFUSED = ("22", "23", "54")
"""Classes of SQLSTATE: the row is at fault (its data, a constraint, too large for an index)."""


def row_refused(error: BaseException) -> bool:
    return str(getattr(error, "sqlstate", ""))[:2] in _ROW_REFUSED


class Intake:
    """Statements that take rows of the shape of `columns` (those that the target `fills` has) from `adopt_step`."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [one for one in columns if not one.generated]
        names = [quoted(one.name) for one in self._columns]
        told = {
            quoted(one.name): _comparable(one)
            for one in self._columns
            if one.name not in (*KEY, "seq") and not one.unique_default
        }
        same = " AND ".join(f"s.{quoted(name)} = f.{quoted(name)}" for name in KEY)
        listed, key = ", ".join(names), ", ".join(map(quoted, KEY))
        contradicts = " OR ".join(f"(s.{name}{cast} <> f.{name}{cast})" for name, cast in told.items())
        tells_more = " OR ".join(f"(f.{name} IS NULL AND s.{name} IS NOT NULL)" for name in told)
        values = f"to_jsonb(s) - '{FITS}' - '{RAW}'"
        declared = ", ".join(map(_declared, self._columns))
        self.create = f"CREATE TEMP TABLE adopt_step ({declared}, {FITS} boolean, {RAW} text)"
        self.insert = (
            f"INSERT INTO fills ({listed}) SELECT {listed} FROM adopt_step WHERE {FITS} ON CONFLICT ({key}) DO NOTHING"
        )
        self.fill_in = (
            f"UPDATE fills AS f SET {', '.join(f'{name} = coalesce(f.{name}, s.{name})' for name in told)}"
            f" FROM (SELECT DISTINCT ON ({', '.join(f's.{quoted(name)}' for name in KEY)}) s.* FROM adopt_step AS s"
            f" JOIN fills AS f ON {same} WHERE s.{FITS} AND ({contradicts}) IS NOT TRUE AND ({tells_more})) AS s"
            f" WHERE {same}"
        )
        self.contradicting = (
            f"SELECT s.user_address AS who, coalesce(s.{RAW}, jsonb_strip_nulls({values})::text) AS raw,"
            f" (extract(epoch FROM s.time) * 1000)::bigint AS time_ms"
            f" FROM adopt_step AS s JOIN fills AS f ON {same} WHERE s.{FITS} AND ({contradicts})"
        )
        self.stage_json = (
            f"INSERT INTO adopt_step ({listed}, {FITS}, {RAW}) SELECT {listed}, true, {RAW}"
            f" FROM jsonb_populate_recordset(NULL::pg_temp.adopt_step, $1::jsonb)"
        )

    async def prepare(self, connection: Connection) -> None:
        """Once in a session."""
        await connection.execute("SET client_min_messages = warning")
        await connection.execute("DROP TABLE IF EXISTS pg_temp.adopt_step")
        await connection.execute(self.create)

    async def take(self, connection: Connection, staged: int) -> Counts:
        """Take the `staged` fitting rows of `adopt_step`. Raises: whatever the database says, see `row_refused`."""
        async with connection.transaction():
            inserted = _affected(await connection.execute(self.insert))
            if inserted == staged:
                return Counts(inserted=inserted)
            # A temporary table has no statistics to plan by, and the key's index is the only way in.
            await connection.execute("SET LOCAL enable_hashjoin = off")
            await connection.execute("SET LOCAL enable_mergejoin = off")
            while _affected(await connection.execute(self.fill_in)):  # one row of each key at a time
                pass
            rows = await connection.fetch(self.contradicting)
            reason = "another row of the table has its key and differs"
            await reject(connection, [(row["who"], row["raw"], reason, row["time_ms"]) for row in rows])
            return Counts(inserted=inserted, rejected=len(rows), already_there=staged - inserted - len(rows))

    async def put_back(self, connection: Connection, theirs: Theirs, *, batch_rows: int = BATCH_ROWS) -> Counts:
        """Judge what was put aside and take it in, batch by batch, each in one transaction."""
        total, after = Counts(), ("", "")
        while True:
            async with connection.transaction():
                rows = await connection.fetch(state.NEXT_ASIDE, *after, batch_rows)
                if not rows:
                    return total
                after = (rows[-1]["who"], rows[-1]["moment"])
                counts = await self._judge(
                    [row["raw"] for row in sorted(rows, key=lambda row: row["id"])], connection, theirs
                )
                await connection.execute(state.DELETE_ASIDE, [row["id"] for row in rows])
                await state.add(connection, counts)
            total.add(counts)

    async def _judge(self, raws: Sequence[str], connection: Connection, theirs: Theirs) -> Counts:
        judged = judge(raws, theirs)
        refused = [(one.user, one.raw, one.reason, one.time_ms) for one in judged if one.reason is not None]
        await reject(connection, refused)
        good = [one for one in judged if one.values is not None and one.reason is None]
        counts = Counts(rejected=len(refused), already_there=len(judged) - len(refused) - len(good))
        await self._take_judged(connection, good, counts)
        return counts

    async def _take_judged(self, connection: Connection, rows: Sequence[Judged], counts: Counts) -> None:
        """Halve until the row that the database refuses stands alone."""
        if not rows:
            return
        try:
            async with connection.transaction():
                await connection.execute("TRUNCATE adopt_step")
                await connection.execute(
                    self.stage_json, to_json([{**(one.values or {}), RAW: one.raw} for one in rows])
                )
                counts.add(await self.take(connection, len(rows)))
        except Exception as error:
            if not row_refused(error):
                raise
            if len(rows) == 1:
                reason = f"the database refused it: {error}"
                await reject(connection, [(rows[0].user, rows[0].raw, reason, rows[0].time_ms)])
                counts.rejected += 1
                return
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                await self._take_judged(connection, half, counts)


async def reject(connection: Connection, rows: Sequence[tuple[str, str, str, int | None]]) -> None:
    """Keep rows (user, raw, reason, ms) that are no fills in `rejected_fills`."""
    await store_rejected(connection, [(user, Rejected(raw, reason, ms)) for user, raw, reason, ms in rows])


def _comparable(column: Column) -> str:
    """A cast to what has an equality: json, points and others of the kind have none."""
    if column.name in FILLS_COLUMNS or column.category in _COMPARABLE:
        return ""
    return "::jsonb" if column.type == "json" else "::text"


def _declared(column: Column) -> str:
    collation = ' COLLATE "C"' if column.name in ("user_address", "coin", "side") else ""
    return f"{quoted(column.name)} {column.type}{collation}"


def _affected(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])
