"""What will be done to a table, which way, and how long it may take. Pure: from a `Shape` and `Facts` to a `Plan`.

In place wherever nothing must be rewritten, else a copy; refused, with one sentence, where neither is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from vigil.adopt.rules import Rule, Unit
from vigil.adopt.shape import KEY, OLD_TABLE, Column, Facts, Index, Shape, quoted
from vigil.errors import SchemaMismatch, UsageError, VigilError
from vigil.store import FILLS_COLUMNS

KEY_INDEX = "fills_key"
LOCK = "nobody reads or writes `fills` meanwhile"
BRIEF = "nobody reads or writes `fills` for a moment"
OPEN = "readers and writers go on"
READERS = "readers go on, writers wait"

# Rows a second on the machine of docs/adopt.md: to say minutes or hours, no more.
SCAN_RATE, INDEX_RATE, COPY_RATE, ASIDE_RATE, REWRITE_RATE = 300_000, 150_000, 20_000, 4_000, 60_000

MOSTLY_ODD = 0.2
"""From this share of rows to be looked at one by one a copy is the better way."""

_COLLATED = ("user_address", "coin", "side")


class Way(StrEnum):
    """How a table becomes vigil's."""

    RIGHT = "right"
    IN_PLACE = "in_place"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that will be done; `statements` in one transaction where they are known beforehand."""

    text: str
    lock: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`changes` are the statements of the catalog alone (in place); `reasons` why it must be a copy."""

    way: Way
    shape: Shape
    facts: Facts
    mapping: Mapping[str, str]
    units: Mapping[str, Unit]
    rules: Mapping[str, Rule]
    steps: tuple[Step, ...] = ()
    changes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    hypertable: bool = False
    """Whether a plain table is to become a hypertable, in place."""

    @property
    def key_is_there(self) -> bool:
        """Whether a unique index on the key is there, and will stay."""
        return any(_is_key(one, self.mapping) and not _refuses(one, self) for one in self.shape.indexes)


@dataclass(frozen=True, slots=True)
class Preview:
    """What `adopt` would do: a `plan`, or the rest of an adoption `under_way` by copy; neither without a table."""

    plan: Plan | None = None
    blocks_left: int = 0
    rows_aside: int = 0
    under_way: bool = False


def make_plan(
    shape: Shape,
    facts: Facts,
    mapping: Mapping[str, str],
    units: Mapping[str, Unit],
    rules: Mapping[str, Rule | None],
    *,
    hypertable: bool = False,
) -> Plan:
    """Decide. Raises: SchemaMismatch or UsageError with the reason why it can't be done."""
    _refuse(shape, facts, mapping, rules)
    usable = {ours: one for ours, one in rules.items() if one is not None}
    if hypertable and shape.timescaledb is None:
        raise UsageError("--hypertable needs TimescaleDB, and this is plain Postgres.")
    # The migrations make a hypertable of an empty table, and it must not be left with an index that forbids that.
    empty = shape.timescaledb is not None and not facts.sampled and not facts.rows
    becomes = shape.hypertable is None and (hypertable or empty)
    plan = Plan(Way.IN_PLACE, shape, facts, mapping, units, usable, hypertable=becomes)
    if reasons := tuple(_why_copy(plan)):
        if shape.under_way:  # in place, or nobody would ask: what it has put aside belongs into this very table
            raise SchemaMismatch(
                f"The adoption in place, which was begun, can't go on: {'; '.join(reasons)}.",
                hint="Undo what was done to the table meanwhile (of chunks: SELECT decompress_chunk(chunk, true) FROM"
                " show_chunks('fills') AS chunk; and pause the policy that compresses them), and run it again.",
            )
        if shape.old_table:
            raise SchemaMismatch(
                f"The table `fills` must be copied, but `{OLD_TABLE}` of an earlier adoption is still there.",
                hint=f"When you no longer need it: DROP TABLE {OLD_TABLE};",
            )
        return replace(plan, way=Way.COPY, reasons=reasons, steps=tuple(_copy_steps(plan)), hypertable=False)
    changes, steps = tuple(_changes(plan)), tuple(_in_place_steps(plan))
    return replace(plan, way=Way.IN_PLACE if steps else Way.RIGHT, changes=changes, steps=steps)


def refuse_shape(shape: Shape) -> None:
    """What can be told without knowing which column is which. Raises: SchemaMismatch, UsageError."""
    kinds = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
    if shape.kind in kinds:
        raise _unfit(f"it is {kinds[shape.kind]}, not a table", "Adopt the table behind it, under the name `fills`.")
    if shape.schema != shape.current_schema:
        raise _unfit(
            f"it is in the schema {shape.schema}, but new tables would go to {shape.current_schema}",
            f"Put {shape.schema} first: append ?options=-csearch_path%3D{shape.schema} to VIGIL_DATABASE_URL.",
        )
    if not shape.owned:
        raise UsageError("The table `fills` can't be adopted: this role does not own it.", hint="Use its owner's role.")
    if not shape.may_create:
        raise UsageError(
            "The table `fills` can't be adopted: this role may not create tables beside it.",
            hint=f"GRANT CREATE ON SCHEMA {quoted(shape.schema)} TO it.",
        )
    if shape.inherits:
        raise _unfit("it inherits, or is inherited from", "Put its rows into one table first.")
    if shape.row_security:
        raise _unfit("it has row level security, which may hide rows", "ALTER TABLE fills DISABLE ROW LEVEL SECURITY;")
    if shape.unlogged:
        raise _unfit("it is unlogged: a crash of the server would empty it", "ALTER TABLE fills SET LOGGED;")
    if shape.workers:
        raise UsageError(f"{shape.workers} workers of vigil are at work on this database.", hint="Stop them first.")


def _refuse(shape: Shape, facts: Facts, mapping: Mapping[str, str], rules: Mapping[str, Rule | None]) -> None:
    refuse_shape(shape)
    for ours, one in rules.items():
        if one is None:
            theirs = shape.column(mapping[ours])
            raise _unfit(
                f"{theirs.name} is of type {theirs.type}, which can't become {FILLS_COLUMNS[ours]} ({ours})",
                f"If another column is {ours}, name it in VIGIL_FILLS_COLUMNS.",
            )
    if facts.rows > 50 and facts.whole_seconds == facts.rows:
        raise _unfit(
            "its times are whole seconds; without the exchange's milliseconds no row of it can be known again, so"
            " each would be stored twice",
            "Rename the table, and load the archives again: vigil-backfill load.",
        )
    unfit = {
        ours: rows for ours, rows in facts.unfit.items() if FILLS_COLUMNS[ours] != "jsonb"
    }  # those may yet be JSON
    if max(unfit.values(), default=0) * 2 > facts.rows:
        worst = ", ".join(sorted(unfit, key=lambda ours: -unfit[ours])[:3])
        raise _unfit(f"most of its rows can't be fills (because of {worst})", "See docs/adopt.md for what can.")


def _unfit(why: str, hint: str) -> VigilError:
    return SchemaMismatch(f"The table `fills` can't be adopted: {why}.", hint=hint)


def _why_copy(plan: Plan) -> list[str]:
    """Reasons, most of them about one column, why rows must be rewritten."""
    shape, reasons = plan.shape, []
    for ours, theirs in plan.mapping.items():
        column = shape.column(theirs)
        if column.generated:
            reasons.append(f"{theirs} is computed by the table, and vigil must write it")
        elif not _same_bytes(ours, column, shape):
            reasons.append(f"{theirs} ({column.type}) must become {FILLS_COLUMNS[ours]}")
    if "tid" not in plan.mapping:
        reasons.append("it has no tid, which must be derived for every row")
    if shape.kind == "p":
        reasons.append("it is partitioned by Postgres, whose unique indexes can't hold the key in every case")
    if plan.facts.rows and plan.facts.odd > MOSTLY_ODD * plan.facts.rows:
        reasons.append("too many of its rows must be looked at one by one")
    if shape.hypertable is not None:
        reasons += _why_copy_hypertable(plan)
    return reasons


def _why_copy_hypertable(plan: Plan) -> list[str]:
    table = plan.shape.hypertable
    assert table is not None  # noqa: S101  the caller has looked
    ours = {theirs: ours for ours, theirs in plan.mapping.items()}
    reasons = []
    if ours.get(table.column) != "time":
        reasons.append(f"it is partitioned by {table.column}, which is not the fills' time")
    elif strange := [one for one in table.dimensions if ours.get(one) not in KEY]:
        reasons.append(f"it is partitioned by {', '.join(strange)}, which the key does not have")
    retyped = _retyped(plan)
    if retyped and table.aggregates:
        reasons.append(f"{', '.join(retyped)} must change, which {', '.join(table.aggregates)} (built on it) forbid")
    if table.compressed_chunks and (retyped or plan.facts.odd or plan.facts.mixed_case or plan.facts.duplicates):
        what = f"{', '.join(retyped)} must change" if retyped else "rows of it must change"
        reasons.append(f"{what}, and {table.compressed_chunks} of its chunks are compressed")
    return reasons


def _same_bytes(ours: str, column: Column, shape: Shape) -> bool:
    """Whether the rows can stay as they lie on disk."""
    wanted = FILLS_COLUMNS[ours]
    if column.type == wanted or (wanted == "text" and column.type == "character varying"):
        return True
    # The session's zone is UTC, so Postgres knows that the two are the same bytes.
    return wanted.startswith("timestamp") and column.type.startswith("timestamp") and shape.hypertable is None


def _retyped(plan: Plan) -> list[str]:
    """Their columns whose type or collation must change, without a byte of them changing."""
    return [theirs for ours, theirs in plan.mapping.items() if _must_retype(ours, plan.shape.column(theirs))]


def _must_retype(ours: str, column: Column) -> bool:
    return column.type != FILLS_COLUMNS[ours] or column.modifier or (ours in _COLLATED and not column.c_collation)


def _changes(plan: Plan) -> list[str]:
    """The statements that change the catalog alone, in order; safe to plan anew when some were done."""
    shape = plan.shape
    if (retyped := _retyped(plan)) and shape.views:
        raise _unfit(
            f"{', '.join(retyped)} must change, which the views on it forbid: {', '.join(shape.views)}",
            "Drop the views, adopt, and create them again.",
        )
    changes = [_drop_of(one) for one in _refusing(plan)]
    changes += [f"ALTER TABLE fills DROP CONSTRAINT {quoted(name)}" for name in shape.foreign_keys]
    for ours, theirs in plan.mapping.items():
        column = shape.column(theirs)
        if theirs != ours:
            if ours in shape.names:
                changes.append(f"ALTER TABLE fills RENAME COLUMN {quoted(ours)} TO {quoted(f'{ours}_before_adoption')}")
            changes.append(f"ALTER TABLE fills RENAME COLUMN {quoted(theirs)} TO {quoted(ours)}")
        if _must_retype(ours, column):
            collation = ' COLLATE "C"' if ours in _COLLATED else ""
            changes.append(f"ALTER TABLE fills ALTER COLUMN {quoted(ours)} TYPE {FILLS_COLUMNS[ours]}{collation}")
    changes += [
        f"ALTER TABLE fills RENAME COLUMN {quoted(ours)} TO {quoted(f'{ours}_before_adoption')}"
        for ours in FILLS_COLUMNS
        if ours not in plan.mapping and ours in shape.names
    ]
    changes += [
        f"ALTER TABLE fills ADD COLUMN {quoted(ours)} {kind}"
        for ours, kind in FILLS_COLUMNS.items()
        if ours not in plan.mapping
    ]
    changes += [f"ALTER TABLE fills ALTER COLUMN {quoted(name)} DROP NOT NULL" for name in _demanding(plan)]
    return changes


def _refusing(plan: Plan) -> list[Index]:
    """Unique indexes that would refuse rows which are fills of their own. Raises: SchemaMismatch."""
    found = [one for one in plan.shape.indexes if one.name == KEY_INDEX and not one.valid]
    found += [one for one in plan.shape.indexes if one not in found and _refuses(one, plan)]
    for one in found:
        if one.referenced_by:
            raise _unfit(
                f"its unique index {one.name} refuses fills, but {', '.join(one.referenced_by)} refers to it",
                "Drop that foreign key first.",
            )
    return found


def _refuses(index: Index, plan: Plan) -> bool:
    ours = {theirs: ours for ours, theirs in plan.mapping.items()}
    own = {ours.get(name, "") for name in index.columns}
    if plan.facts.mixed_case and own & {"user_address", "side"}:
        return True  # two spellings of one key would collide while they are written anew
    if plan.hypertable and "time" not in own:
        return True  # TimescaleDB has no unique index without the time
    if set(KEY) <= own and not index.partial:
        return False
    foreign = [plan.shape.column(name) for name in index.columns if name not in ours]
    return not any(one.unique_default or not (one.has_default or one.generated) for one in foreign)


def _is_key(index: Index, mapping: Mapping[str, str]) -> bool:
    return index.valid and not index.partial and set(index.columns) == {mapping.get(ours, ours) for ours in KEY}


def _drop_of(index: Index) -> str:
    if index.constraint:
        return f"ALTER TABLE fills DROP CONSTRAINT {quoted(index.name)}"
    return f"DROP INDEX {quoted(index.name)}"


def _demanding(plan: Plan) -> list[str]:
    known = set(plan.mapping.values())
    return [
        f"{one.name}_before_adoption" if one.name in FILLS_COLUMNS else one.name
        for one in plan.shape.columns
        if one.name not in known and one.not_null and not (one.has_default or one.generated)
    ]


def _in_place_steps(plan: Plan) -> list[Step]:
    shape, rows = plan.shape, plan.shape.rows
    steps = []
    if refusing := _refusing(plan):
        names = ", ".join(f"{one.name} ({', '.join(one.columns) or 'an expression'})" for one in refusing)
        steps.append(Step(f"drop the unique index that would refuse fills: {names}", BRIEF))
    if shape.foreign_keys:
        steps.append(Step(f"drop foreign keys that would refuse fills: {', '.join(shape.foreign_keys)}", BRIEF))
    renamed = [f"{theirs} to {ours}" for ours, theirs in plan.mapping.items() if ours != theirs]
    if renamed:
        steps.append(Step(f"rename {', '.join(renamed)}", BRIEF))
    if retyped := _retyped(plan):
        text = f"declare {', '.join(retyped)} as vigil's types and collation: indexes on them are built anew, rows stay"
        steps.append(Step(text, LOCK, rows / INDEX_RATE))
    if added := [ours for ours in FILLS_COLUMNS if ours not in plan.mapping]:
        steps.append(Step(f"add the empty columns {', '.join(added)}", BRIEF))
    if demanding := _demanding(plan):
        steps.append(Step(f"let {', '.join(demanding)} be empty: vigil has no value for it", BRIEF))
    return [*steps, *_row_steps(plan)]


def _row_steps(plan: Plan) -> list[Step]:
    """What in place concerns rows: few of them, but for the key's index."""
    shape, facts, rows = plan.shape, plan.facts, plan.shape.rows
    steps = []
    if facts.mixed_case:
        steps.append(Step("write addresses in lower case, where they are not", OPEN, facts.mixed_case / REWRITE_RATE))
    if facts.odd:
        steps.append(Step("put rows aside that must be looked at one by one", OPEN, rows / SCAN_RATE))
    if not plan.key_is_there:
        how = OPEN if shape.hypertable is None else READERS
        steps.append(Step(f"build the unique index {KEY_INDEX} ({', '.join(KEY)})", how, rows / INDEX_RATE))
    if plan.hypertable:
        steps.append(Step("turn the table into a hypertable: every row is moved", LOCK, rows / REWRITE_RATE))
    if shape.under_way or facts.odd or facts.duplicates:
        moved = facts.odd + (facts.duplicates or 0)
        steps.append(
            Step("put back what was put aside; what is no fill goes to rejected_fills", OPEN, moved / ASIDE_RATE)
        )
    return steps


def _copy_steps(plan: Plan) -> list[Step]:
    shape, facts, rows = plan.shape, plan.facts, plan.shape.rows
    share = facts.odd / facts.rows if facts.rows else 0.0
    made = "a hypertable" if shape.timescaledb is not None else "a plain table"
    steps = [
        Step(f"rename `fills` to `{OLD_TABLE}`; nothing of it changes", BRIEF),
        Step(f"create the new `fills`, {made}", OPEN),
        Step("copy the rows in steps of some blocks", OPEN, rows / COPY_RATE),
    ]
    if share:
        text = "take in the rows that must be looked at one by one; what is no fill goes to rejected_fills"
        steps.append(Step(text, OPEN, rows * share / ASIDE_RATE))
    steps.append(Step(f"count `{OLD_TABLE}`: all its rows must be accounted for", OPEN, rows / SCAN_RATE))
    return steps
