"""What the database knows of the users of a job, before it is begun: in a few aggregates, no row a user comes here.

Reads only, in one snapshot. Must not know what is made of it (`plan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vigil.claims import Window
from vigil.db import Connection, sql
from vigil.forecast import Sample, rows_weight
from vigil.hypertable import read_shape
from vigil.prior import LAUNCH_MS
from vigil.sources import Source
from vigil.urgency import REACH_ROWS

KINDS = ("unread", "partly", "slices", "finished", "parked", "elsewhere")
"""Of users, by what is known of them: sql/plan_left.sql."""

MEASURED_ROWS = 100_000
"""Rows from which on the database's own bytes a row are believed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be read. `users` None: everybody known. `attempts`: failed tries after which a user is parked."""

    window: Window
    source: Source
    users: Sequence[str] | None = None
    attempts: int = 3
    twap: str = "auto"
    volume_check: bool = False

    @property
    def reach(self) -> int | None:
        """Rows of a user that the source shows; None: all."""
        return None if self.source.keeps_all else REACH_ROWS

    def weigh(self, rows: int) -> int:
        """What a history of so many rows costs."""
        source = self.source
        return rows_weight(
            rows, base=source.base_weight, rows_per_weight=source.rows_per_weight, page_rows=source.page_rows
        )

    def further(self, sliced: float) -> float:
        """Weight a user beside its fills: its list of slices, of a share `sliced` of them if it is auto; its volume."""
        lists = {"auto": sliced, "always": 1.0}.get(self.twap, 0.0) if self.source.twap else 0.0
        return self.source.base_weight * (lists + self.volume_check)


@dataclass(slots=True)
class Group:
    """Users of whom nothing has been read, what their rows elsewhere make us expect, and those like them who were."""

    unread: int = 0
    rows: float = 0.0
    weight: float = 0.0
    read_rows: Sample = field(default_factory=Sample)
    read_weight: Sample = field(default_factory=Sample)


@dataclass(slots=True)
class Known:
    """Users by `KINDS`, and what is known of those to be read."""

    users: dict[str, int]
    losing: Group = field(default_factory=Group)
    """Those whose history is being lost (vigil.urgency): they trade more."""
    others: Group = field(default_factory=Group)
    partly_rows: float = 0.0
    partly_weight: float = 0.0
    """Expected of those who have been read partly."""
    sliced: float | None = None
    """Share of those read whose TWAP slices were wanted."""
    row_bytes: float | None = None
    """As measured on the database's own rows."""
    packs: bool | None = None
    """Whether it has a columnstore; None: there is no database yet."""

    @property
    def read(self) -> int:
        """Users read, of either group."""
        return self.losing.read_weight.count + self.others.read_weight.count


def nothing_known(users: int) -> Known:
    """Of so many users, where there is no database, or an empty one."""
    return Known(dict.fromkeys(KINDS, 0) | {"unread": users}, others=Group(unread=users))


async def is_empty(connection: Connection) -> bool:
    """Whether this database has never been used, by us or with a table `fills`."""
    return bool(await connection.fetchval(sql("plan_empty")))


async def read_known(connection: Connection, job: Job) -> Known:
    """What the database knows. Raises: StoreError, StoreUnavailable."""
    source, window = job.source, job.window
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch(
            sql("plan_left"),
            window.start_ms,
            window.end_ms,
            source.name,
            job.attempts,
            LAUNCH_MS,
            source.base_weight,
            source.rows_per_weight,
            source.page_rows,
            job.reach,
            job.twap == "always" and source.twap,
            job.users,
        )
        if job.users is None:
            chunks = await connection.fetchval(sql("fills_has_chunks"))
            strangers = await connection.fetchval(sql("plan_strangers_of_chunks" if chunks else "plan_strangers"))
        else:
            strangers = len(job.users) - sum(row["users"] for row in rows)
        size = await connection.fetchrow(sql("plan_size"))
        shape = await read_shape(connection)
    assert size is not None  # noqa: S101  an aggregate always has a row
    known = _known(rows, strangers)
    known.packs = shape.columnstore
    known.row_bytes = size["bytes"] / size["rows"] if size["rows"] >= MEASURED_ROWS else None
    return known


def _known(rows: Sequence[Any], strangers: int) -> Known:
    known = nothing_known(strangers)
    sliced = 0
    for row in rows:
        known.users[row["kind"]] += row["users"]
        group = known.losing if row["urgent"] else known.others
        group.read_rows += Sample.of(row["read_users"], row["read_rows"], row["read_rows_squares"])
        group.read_weight += Sample.of(row["read_users"], row["read_weight"], row["read_weight_squares"])
        sliced += row["read_slices"]
        if row["kind"] == "unread":
            group.unread += row["users"]
            group.rows, group.weight = row["rows"], row["weight"]
        elif row["kind"] == "partly":
            known.partly_rows += row["rows"]
            known.partly_weight += row["weight"]
    known.sliced = sliced / known.read if known.read else None
    return known
