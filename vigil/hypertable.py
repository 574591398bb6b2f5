"""The shape of `fills`: how it is packed, what is added up from it, and what tends it.

Must not know users, batches or the exchange. `arrange` runs after the migrations, at each command that
prepares the database. It is no migration itself, because what there is to do depends on what the
database has become meanwhile: it may have got TimescaleDB, another edition of it, or a hypertable that
was somebody else's.

What people have set up themselves stays as it is: their columnstore settings, their policies, their chunk
interval, a relation of theirs that is called `fills_daily`. And what was set up here once and was taken away
again is not set up again (`backfill_arranged` remembers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vigil.db import Connection, sql
from vigil.migrate import alone, attempted

Notice = Callable[[str], object]

REMEDY = "`vigil-backfill maintain` tries it again"


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is."""

    timescaledb: bool
    community: bool
    """Its edition with columnstore and continuous aggregates, not the one under the Apache licence."""
    is_table: bool
    """Plain, hypertable or partitioned."""
    hypertable: bool
    columnstore: bool
    """Chunks can be packed: settings for it are there."""
    columnstore_policy: int | None
    """A policy that packs chunks, which somebody has added."""
    daily: str
    """`fills_daily`: none; ours; stray (ours, but of another table); foreign."""
    daily_aggregate: bool
    """It is a continuous aggregate, not a plain view."""
    upkeep_job: int | None
    arranged: tuple[str, ...]
    """What was set up before: columnstore, daily view, daily aggregate, upkeep job."""

    @property
    def takes_upkeep(self) -> bool:
        return self.hypertable and self.community


@dataclass(frozen=True, slots=True)
class Step:
    """Something to set up: the statement's name, and what people lack without it."""

    statement: str
    otherwise: str


async def arrange(connection: Connection, notice: Notice = lambda _: None) -> None:
    """Set up what is missing; `notice` is told, a sentence each, what can't be had and what is there instead.

    Idempotent; one query when nothing is missing. Waits while another process does the same.
    """
    shape = await read_shape(connection)
    for sentence in lacking(shape):
        notice(sentence)
    if not any(missing(shape)):
        return
    async with alone(connection):
        for step in missing(await read_shape(connection)):
            if refusal := await attempted(connection, sql(step.statement)):
                notice(f"{step.otherwise}: {refusal}; {REMEDY}")


async def read_shape(connection: Connection) -> Shape:
    row = await connection.fetchrow(sql("hypertable_shape"))
    assert row is not None  # noqa: S101  it always has one
    return Shape(**{**row, "arranged": tuple(row["arranged"])})


def missing(shape: Shape) -> Iterator[Step]:
    """What to set up, in order."""
    if not shape.is_table:  # foreign, or a view: whoever made that knows best
        return
    if shape.takes_upkeep and not shape.columnstore and "columnstore" not in shape.arranged:
        yield Step("arrange_columnstore", "no columnstore for `fills`")
    if _lacks_daily(shape):
        kept = "it stays a plain view" if shape.daily == "ours" else "there is none"
        yield Step("arrange_daily", f"fills_daily can't be made ({kept})")
    if shape.takes_upkeep and shape.upkeep_job is None and "upkeep job" not in shape.arranged:
        yield Step("arrange_upkeep", "no job tends the database between two runs")


def lacking(shape: Shape) -> Iterator[str]:
    """What can't be had here; plain Postgres has been told already, by `migrate`."""
    if shape.timescaledb and not shape.hypertable:
        yield "`fills` is a plain table beside TimescaleDB: no columnstore, and fills_daily is added up when asked"
    elif shape.hypertable and not shape.community:
        yield "TimescaleDB's Apache edition: no columnstore, and fills_daily is added up when asked"
    if shape.daily == "foreign":
        yield "fills_daily is not vigil's here: it is left as it is, and nothing is added up by day"


def _lacks_daily(shape: Shape) -> bool:
    best = "daily aggregate" if shape.takes_upkeep else "daily view"
    if shape.daily == "none":
        return best not in shape.arranged
    return shape.daily == "stray" or (shape.daily == "ours" and shape.takes_upkeep and not shape.daily_aggregate)
