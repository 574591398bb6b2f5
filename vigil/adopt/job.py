"""An adoption from its first look to its end: which stage follows which, and where a killed one goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from vigil.adopt import copying, in_place, state
from vigil.adopt.convert import Theirs
from vigil.adopt.inspect import Look, read_facts, read_shape, read_units
from vigil.adopt.intake import Intake
from vigil.adopt.mapping import parse, resolve
from vigil.adopt.plan import Plan, Preview, Way, make_plan, refuse_shape
from vigil.adopt.rules import Unit, rules_of
from vigil.adopt.shape import OLD_TABLE, Facts, Shape
from vigil.adopt.state import Counts
from vigil.db import Connection, session
from vigil.errors import StoreError, UsageError
from vigil.migrate import Migration, attempted, migrate

Tell = Callable[[str], object]

TELL_SECONDS = 10.0
LOCK_TRIES, LOCK_SECONDS = 4, 1.0
"""How long an adoption waits for another to be over: for one that was killed just before."""

SESSION = {
    "statement_timeout": "0",  # a role may have one, and an index takes what it takes
    "jit": "off",
    "work_mem": "64MB",
    "timescaledb.max_tuples_decompressed_per_dml_transaction": "0",
}
_LOCK_KEY = 0x7669676C61646F70  # "vigladop" in ASCII: any number will do, as long as every version takes the same


@dataclass(frozen=True, slots=True)
class AdoptionResult:
    """What `adopt` did. `counts` are rows taken in anew or one by one; None when nothing was to be done."""

    way: Way
    counts: Counts | None
    applied: list[Migration]


async def preview(dsn: str, columns: str = "", *, hypertable: bool = False) -> Preview:
    """Look, and change nothing: the whole look is one transaction that may not write.

    Raises: UsageError, SchemaMismatch where the table can't be adopted; StoreError, StoreUnavailable.
    """
    given = parse(columns)
    async with session(dsn) as connection, connection.transaction(readonly=True):
        begun = await state.read(connection)
        if begun is not None and begun.way == Way.COPY:
            return Preview(None, *await state.rows_left(connection), under_way=True)
        shape = await read_shape(connection)
        if shape is None:
            return Preview()
        plan = await _plan(connection, shape, given, hypertable=hypertable, look=Look.FOR_PEOPLE)
        return Preview(plan, under_way=begun is not None)


async def adopt(
    dsn: str,
    columns: str = "",
    *,
    hypertable: bool = False,
    tell: Tell = lambda _: None,
    step_blocks: int = in_place.STEP_BLOCKS,
) -> AdoptionResult:
    """Make the table `fills` vigil's, or go on with that, then bring the schema up to date.

    `columns` is the setting VIGIL_FILLS_COLUMNS; `tell` hears how it goes on. It may be killed at any moment.
    Raises: as `preview`; StoreError when the counts do not add up.
    """
    given = parse(columns)
    async with session(dsn) as connection, _alone(connection):
        for setting, value in SESSION.items():
            await connection.execute("SELECT set_config($1, $2, false)", setting, value)
        begun = await state.read(connection)
        if begun is not None and begun.way == Way.COPY:
            tell("going on with the copy that was begun")
            return await _copy(connection, begun, tell, step_blocks)
        shape = await read_shape(connection)
        if shape is None:
            return AdoptionResult(Way.RIGHT, None, await migrate(connection, notice=tell))
        plan = await _plan(connection, shape, given, hypertable=hypertable, look=Look.FIRST)
        if plan.way is not Way.COPY and (plan.facts.sampled or shape.hypertable is not None):
            # In place each row counts, before the first change.
            plan = await _plan(connection, shape, given, hypertable=hypertable, look=Look.EXACT)
        if plan.way is Way.COPY:
            await copying.rename(connection, plan, tell)
            return await _copy(
                connection, state.Begun(plan.way, dict(plan.mapping), dict(plan.units)), tell, step_blocks
            )
        if plan.way is Way.IN_PLACE:
            return await _in_place(connection, plan, tell, step_blocks)
        return AdoptionResult(Way.RIGHT, None, await migrate(connection, notice=tell))


async def _plan(connection: Connection, shape: Shape, given: dict[str, str], *, hypertable: bool, look: Look) -> Plan:
    refuse_shape(shape)
    mapping = resolve(shape.columns, given, under_way=shape.under_way)
    units = await read_units(connection, shape, mapping, "fills")
    rules = rules_of(mapping, {one.name: one for one in shape.columns}, units)
    usable = {ours: one for ours, one in rules.items() if one is not None}
    facts = None
    if len(usable) == len(rules):
        facts = await read_facts(connection, shape, mapping, usable, look=look)
        if not facts.sampled:
            shape = replace(shape, rows=facts.rows)  # counted, where the server has an estimate only
    return make_plan(shape, facts or Facts(sampled=True), mapping, units, rules, hypertable=hypertable)


async def _in_place(connection: Connection, plan: Plan, tell: Tell, step_blocks: int) -> AdoptionResult:
    tell("changing names, types and indexes")
    await in_place.change_catalog(connection, plan, tell)
    shape = await _again(connection, "fills")
    ours = {name: name for name in plan.rules}
    theirs = _theirs(shape, ours, plan.units, keep_unknown=False)
    now = _renamed(plan, shape, ours)
    if plan.facts.mixed_case:
        tell("writing addresses in lower case")
        await in_place.spell(connection, now, step_blocks=step_blocks)
    if plan.facts.odd:
        tell("putting odd rows aside")
        await in_place.put_aside(connection, now, step_blocks=step_blocks)
    if not plan.key_is_there:
        tell("building the key's index")
        await in_place.build_key(connection, now)
    applied = await migrate(connection, notice=tell)  # which takes TimescaleDB into use
    if plan.hypertable:
        await in_place.make_hypertable(connection, tell)
    intake = Intake(shape.columns)
    await intake.prepare(connection)
    await intake.put_back(connection, theirs)
    counts = await state.totals(connection)
    await _end(connection)
    return AdoptionResult(Way.IN_PLACE, counts, applied)


def _renamed(plan: Plan, shape: Shape, ours: dict[str, str]) -> Plan:
    """The plan in the table's new names."""
    rules = rules_of(ours, {one.name: one for one in shape.columns}, {})
    return replace(plan, shape=shape, mapping=ours, rules={name: one for name, one in rules.items() if one is not None})


async def _copy(connection: Connection, begun: state.Begun, tell: Tell, step_blocks: int) -> AdoptionResult:
    applied = await migrate(connection, notice=tell)
    await copying.create_again(connection)
    old, new = await _again(connection, OLD_TABLE), await _again(connection, "fills")
    theirs = _theirs(old, begun.mapping, begun.units, keep_unknown=True)
    rules = rules_of(begun.mapping, theirs.columns, begun.units)
    intake = Intake(new.columns)
    await intake.prepare(connection)
    usable = {ours: one for ours, one in rules.items() if one is not None}
    copy = copying.Copy(intake, theirs, usable, step_blocks=step_blocks)
    await copy.run(connection, _pace(tell, old.rows))
    tell("taking in the rows that were put aside")
    await intake.put_back(connection, theirs)
    counts = await copying.account(connection)
    await _end(connection)
    return AdoptionResult(Way.COPY, counts, applied)


async def _again(connection: Connection, table: str) -> Shape:
    shape = await read_shape(connection, table)
    if shape is None:
        raise StoreError(f"The table `{table}` is gone, in the middle of its adoption.", hint="See docs/adopt.md.")
    return shape


def _theirs(shape: Shape, mapping: dict[str, str], units: Mapping[str, Unit], *, keep_unknown: bool) -> Theirs:
    return Theirs(mapping, {one.name: one for one in shape.columns}, units, keep_unknown)


async def _end(connection: Connection) -> None:
    async with connection.transaction():
        await state.end(connection)
    await connection.execute("ANALYZE fills")


def _pace(tell: Tell, total: int) -> Callable[[int], None]:
    """Tells every few seconds how far the copy is."""
    began = told = time.monotonic()
    done = 0

    def step(rows: int) -> None:
        nonlocal told, done
        done += rows
        now = time.monotonic()
        if now - told >= TELL_SECONDS:
            told = now
            tell(f"copied {done:,} of about {max(total, done):,} rows, {done / (now - began):,.0f} a second")

    return step


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    # The statement of one that was killed goes on until its server notices: within a second, where this can be set.
    await attempted(connection, "SET client_connection_check_interval = '1s'")
    for tries_left in reversed(range(LOCK_TRIES)):
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
            break
        if not tries_left:
            raise UsageError(
                "Another adoption is at work on this database, or the last statement of one that was killed.",
                hint="Wait for it, or stop it, and run this again.",
            )
        await asyncio.sleep(LOCK_SECONDS)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)
