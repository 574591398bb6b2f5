"""What a foreign table looks like: facts of the catalog and of a look at its rows. Pure data, no judgement."""

from __future__ import annotations

from dataclasses import dataclass, field

OLD_TABLE = "fills_before_adoption"

KEY = ("user_address", "time", "coin", "oid", "tid", "side")
REQUIRED = ("user_address", "time", "coin", "side", "px", "sz", "oid")
"""Without a value for each of these a row is no fill; a `tid` can be derived."""


def quoted(name: str) -> str:
    """`name` as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `type` without its modifier, `category` Postgres' own (S text, N number, D date, E enum ...)."""

    name: str
    type: str
    category: str = "S"
    modifier: bool = False
    not_null: bool = False
    has_default: bool = False
    unique_default: bool = False
    """Its default differs from row to row: an identity, a sequence, a random UUID, the time of insertion."""
    generated: bool = False
    c_collation: bool = True
    """Whether it compares by bytes (COLLATE "C"); True where it has no collation."""


@dataclass(frozen=True, slots=True)
class Index:
    """A unique index or constraint. `columns` is empty where it is on an expression."""

    name: str
    columns: tuple[str, ...]
    constraint: bool = False
    partial: bool = False
    """Or deferrable: no conflict can be resolved by either."""
    valid: bool = True
    referenced_by: tuple[str, ...] = ()
    """Foreign keys of other tables that need it."""


@dataclass(frozen=True, slots=True)
class Hypertable:
    """What TimescaleDB makes of the table."""

    column: str
    interval: str
    chunks: int
    compressed_chunks: int
    dimensions: tuple[str, ...]
    retention: bool = False
    aggregates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """The table as the catalog has it; `rows` and `size_bytes` are the server's estimates."""

    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()
    kind: str = "r"
    schema: str = "public"
    current_schema: str = "public"
    owned: bool = True
    may_create: bool = True
    rows: int = 0
    size_bytes: int = 0
    hypertable: Hypertable | None = None
    timescaledb: str | None = None
    """The edition: `timescale` or `apache`, or that it is not in use yet; None on plain Postgres."""
    views: tuple[str, ...] = ()
    foreign_keys: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    inherits: bool = False
    row_security: bool = False
    unlogged: bool = False
    old_table: bool = False
    workers: int = 0
    under_way: bool = False

    def column(self, name: str) -> Column:
        return next(one for one in self.columns if one.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.columns)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a look at the rows told: all of them, or (`sampled`) some. None: that was not looked at."""

    rows: int = 0
    sampled: bool = False
    without_tid: int = 0
    mixed_case: int = 0
    whole_seconds: int = 0
    unfit: dict[str, int] = field(default_factory=dict)
    """Rows whose value in this column can't be a fill's, by our name of the column."""
    odd: int = 0
    """Rows that must go aside: any unfit value, or no tid."""
    duplicates: int | None = None
    one_sided: float | None = None
    """Of the trades looked at, the share that only one of its two sides is there of."""
