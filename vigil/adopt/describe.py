"""A plan in sentences, for people: what is right, what will be done, what was found in the rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vigil.adopt.plan import Plan, Preview, Way
from vigil.adopt.rules import FLOATS
from vigil.adopt.shape import OLD_TABLE
from vigil.store import FILLS_COLUMNS

LOAD_AGAIN = "`vigil-backfill load` of the same archives, after the adoption, adds what was dropped"


def describe(found: Preview) -> list[str]:
    """What a look has shown, a line each; the first says what comes of it."""
    if (plan := found.plan) is None:
        if not found.under_way:
            return ["There is no table `fills`: the migrations make it."]
        left = f"{found.blocks_left:,} blocks (8 kB) and {found.rows_aside:,} rows put aside are left"
        return [f"A copy is under way: {left}; --adopt goes on with it."]
    begun = ["An adoption is under way, this is what is left of it."] if found.under_way else []
    lines = [*begun, _headline(plan), *(f"  because {reason}" for reason in plan.reasons)]
    lines += ["", "The table", *_indented(_table(plan))]
    lines += ["", "Its columns", *_indented(_columns(plan))]
    if findings := list(_findings(plan)):
        lines += ["", "What was found", *_indented(findings)]
    if plan.steps:
        lines += ["", "What will be done (durations are estimates from the number of rows)"]
        lines += [f"  {n}. {one.text}; {one.lock}; {_long(one.seconds)}" for n, one in enumerate(plan.steps, start=1)]
        lines.append("  then the migrations; interrupted at any moment, the same command goes on")
    if notes := list(_notes(plan)):
        lines += ["", "What stays", *_indented(notes)]
    return lines


def _headline(plan: Plan) -> str:
    match plan.way:
        case Way.RIGHT:
            return "The table `fills` is as it should be: nothing to adopt."
        case Way.IN_PLACE:
            return "The table `fills` can be adopted in place: rows stay where they are."
        case Way.COPY:
            return f"The rows of `fills` must be copied into a new table; the old one stays as `{OLD_TABLE}`."


def _table(plan: Plan) -> Iterator[str]:
    shape = plan.shape
    yield f"about {shape.rows:,} rows, {shape.size_bytes / 2**20:,.0f} MB"
    if shape.timescaledb is None:
        yield "plain Postgres: no hypertable"
    elif shape.hypertable is None:
        yield f"a plain table; TimescaleDB ({shape.timescaledb}) is there" + (
            ""
            if plan.way is Way.COPY or plan.hypertable
            else ": --hypertable makes it a hypertable, which moves every row"
        )
    else:
        table = shape.hypertable
        packed = f", {table.compressed_chunks} of them compressed" if table.compressed_chunks else ""
        yield f"a hypertable on {table.column}, chunks of {table.interval}, {table.chunks} chunks{packed}"
    for one in shape.indexes:
        yield f"unique: {one.name} ({', '.join(one.columns) or 'an expression'})" + ("" if one.valid else ", not valid")


def _columns(plan: Plan) -> Iterator[str]:
    for ours, theirs in plan.mapping.items():
        column, unit = plan.shape.column(theirs), plan.units.get(ours)
        named = ours if ours == theirs else f"{ours} is their {theirs}"
        counted = f" of {unit} since 1970" if unit else ""
        zone = ", taken as UTC" if column.type == "timestamp without time zone" else ""
        yield f"{named}: {column.type}{counted}{zone}"
    if missing := [ours for ours in FILLS_COLUMNS if ours not in plan.mapping]:
        yield f"not there: {', '.join(missing)}"
    known = set(plan.mapping.values())
    if unknown := [one.name for one in plan.shape.columns if one.name not in known]:
        yield f"not ours: {', '.join(unknown)}; " + (
            f"their values go into `extra` (surrogate keys and times of insertion stay in `{OLD_TABLE}`)"
            if plan.way is Way.COPY
            else "they stay as they are"
        )


def _findings(plan: Plan) -> Iterator[str]:
    facts = plan.facts
    looked = f"of {facts.rows:,} rows looked at, " if facts.sampled else ""
    if facts.sampled and not facts.rows:
        yield "the rows were not looked at: it would have taken too long; --adopt will"
    yield from _sides(plan)
    if facts.without_tid:
        yield f"{looked}{facts.without_tid:,} have no tid: it is derived, as for rows of 2023 from the exchange"
        if lossy := _lossy(plan):
            yield f"for such rows {', '.join(lossy)} in floats may have lost digits: those would not be known again"
    for ours, rows in facts.unfit.items():
        what = (
            "may be no JSON"
            if FILLS_COLUMNS[ours] == "jsonb"
            else f"have no {ours} that a fill can have: rejected_fills"
        )
        yield f"{looked}{rows:,} rows {what}"
    if facts.mixed_case and "bytea" not in {plan.shape.column(plan.mapping["user_address"]).type}:
        yield f"{looked}{facts.mixed_case:,} rows spell the address or the side in another way"
    if facts.duplicates:
        yield f"{facts.duplicates:,} rows are a second one of their key: rejected_fills, unless the two agree"
    if facts.duplicates is None:
        yield "not looked for: rows that are there twice; --adopt finds them"
    if lossy := _lossy(plan):
        yield f"{', '.join(lossy)}: floats; digits that were lost when they were stored can't be had back from here"


def _lossy(plan: Plan) -> list[str]:
    return [
        t
        for ours, t in plan.mapping.items()
        if FILLS_COLUMNS[ours] == "numeric" and plan.shape.column(t).type in FLOATS
    ]


def _sides(plan: Plan) -> Iterator[str]:
    """Both sides of a trade carry one `tid`: what a unique index on it has dropped."""
    tid, share = plan.mapping.get("tid"), plan.facts.one_sided
    if any(one.columns == (tid,) for one in plan.shape.indexes):
        yield f"a unique index on {tid} alone kept one side of each trade: up to {plan.shape.rows:,} rows were dropped"
        yield LOAD_AGAIN
    elif share is not None and share > 0.05:
        yield (
            f"of about {share:.0%} of the trades only one side is there: the other's user was never loaded,"
            " or a unique index on tid that is gone has dropped it"
        )
        yield f"in the latter case {LOAD_AGAIN}"


def _notes(plan: Plan) -> Iterator[str]:
    shape, copied = plan.shape, plan.way is Way.COPY
    table = shape.hypertable
    if copied:
        yield f"`{OLD_TABLE}`, until you drop it: DROP TABLE {OLD_TABLE};"
        if shape.views or (table and table.aggregates):
            names = ", ".join([*shape.views, *(table.aggregates if table else ())])
            yield f"{names}: they go on reading `{OLD_TABLE}`; create them again on the new table"
        if shape.triggers or shape.checks or shape.foreign_keys:
            yield f"on the old table alone: {', '.join([*shape.triggers, *shape.checks, *shape.foreign_keys])}"
        if table is not None:
            yield "its jobs (compression, retention) are paused, so that nothing changes while it is copied"
        return
    if shape.checks:
        yield f"the constraints {', '.join(shape.checks)}: a fill that they refuse goes to rejected_fills"
    if shape.triggers:
        yield f"the triggers {', '.join(shape.triggers)}"
    if table is not None and table.retention:
        yield "its retention policy, which drops what a backfill brings: SELECT remove_retention_policy('fills');"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _long(seconds: float) -> str:
    if seconds < 2:
        return "at once"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
