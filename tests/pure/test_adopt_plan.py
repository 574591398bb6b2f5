"""What an adoption decides without a database: names, units, rows that need a look, and the way."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import body_of, steadily, wire_row_2023
from vigil.adopt.convert import Theirs, canonical, judge
from vigil.adopt.describe import describe
from vigil.adopt.mapping import parse, resolve
from vigil.adopt.plan import Plan, Preview, Way, make_plan
from vigil.adopt.rules import Unit, rules_of, unit_of
from vigil.adopt.shape import Column, Facts, Hypertable, Index, Shape
from vigil.errors import SchemaMismatch, UsageError
from vigil.fills import decode_page
from vigil.store import FILLS_COLUMNS

USER = "0x" + "ab" * 20
TIME = 1_688_900_000_000


def category_of(kind: str) -> str:
    if kind in ("text", "character varying"):
        return "S"
    return {"t": "D", "b": "B" if kind == "boolean" else "N", "j": "U"}.get(kind[0], "N")


def contract(**changes: str) -> tuple[Column, ...]:
    """The contract's columns, some of another type."""
    kinds = {**FILLS_COLUMNS, **changes}
    return tuple(Column(name, kind, category_of(kind)) for name, kind in kinds.items())


KEY_INDEX = Index("fills_pkey", ("user_address", "time", "coin", "oid", "tid", "side"), constraint=True)


def planned(shape: Shape, facts: Facts | None = None, *, hypertable: bool = False) -> Plan:
    mapping = resolve(shape.columns, {})
    rules = rules_of(mapping, {one.name: one for one in shape.columns}, {"time": Unit.MILLISECONDS})
    return make_plan(shape, facts or Facts(rows=10), mapping, {}, rules, hypertable=hypertable)


# -- names -----------------------------------------------------------------------------------------


def test_the_setting_is_pairs_of_ours_and_theirs() -> None:
    assert parse("") == {}
    assert parse(" user_address = user , time=time_ms,") == {"user_address": "user", "time": "time_ms"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("user", "not of the form ours=theirs"),
        ("owner=user_address", "'owner' is none of ours"),
        ("time=", "not of the form"),
        ("time=a,time=b", "time is named twice"),
        ("time=a,block_time=a", "a is named twice"),
    ],
)
def test_a_setting_that_can_not_be_meant_is_refused(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(setting)


def test_names_of_the_wire_and_plain_synonyms_are_recognised_and_ours_go_first() -> None:
    names = ["user", "timestamp", "symbol", "side", "price", "size", "orderId", "tid", "startPosition", "time", "SEQ"]
    found = resolve([Column(name, "text") for name in names], {})
    assert found == {
        "user_address": "user",
        "coin": "symbol",
        "side": "side",
        "px": "price",
        "sz": "size",
        "start_position": "startPosition",
        "oid": "orderId",
        "tid": "tid",
        "time": "time",
    }


def test_a_name_that_an_unfinished_adoption_has_changed_already_is_no_error() -> None:
    columns = contract()
    given_names = {"time": "time_ms"}
    with pytest.raises(UsageError, match="no column 'time_ms'"):
        resolve(columns, given_names)
    assert resolve(columns, given_names, under_way=True)["time"] == "time"


# -- times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", list(Unit))
def test_the_unit_of_a_time_is_told_by_its_size(unit: Unit) -> None:
    times = [(1_700_000_000 + number) * unit.per_second for number in range(50)]
    assert unit_of(times) is unit
    assert unit_of([*times, 0, 5]) is unit


def test_times_of_no_one_unit_are_told_as_such() -> None:
    assert unit_of([]) is Unit.MILLISECONDS
    assert unit_of([1_700_000_000, 1_700_000_000_000]) is None
    assert unit_of([17, 18]) is None


# -- rows that need a look -------------------------------------------------------------------------


@steadily(200)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=10))
def test_a_number_is_printed_as_the_exchange_does_whatever_it_was_stored_as(number: Decimal) -> None:
    text = canonical(str(number))
    assert Decimal(text) == number
    assert canonical(f"{number:f}") == text
    whole, _, part = text.partition(".")
    assert part == "0" or (part and not part.endswith("0"))
    assert whole.lstrip("-") == str(abs(int(number)))


def theirs_of(**changes: str) -> Theirs:
    columns = {one.name: one for one in contract(**changes)}
    return Theirs({name: name for name in columns}, columns, {"time": Unit.MILLISECONDS}, keep_unknown=True)


def stored(row: dict[str, object], number: type) -> str:
    """The row as `row_to_json` prints it from a table, amounts as text, numeric or float."""
    names = {"startPosition": "start_position", "closedPnl": "closed_pnl"}
    amounts = ("px", "sz", "startPosition", "closedPnl", "fee")
    values = {names.get(name, name): number(str(value)) if name in amounts else value for name, value in row.items()}
    return json.dumps({**values, "user_address": USER})


@pytest.mark.parametrize(("kind", "number"), [("text", str), ("double precision", float)])
def test_the_derived_tid_is_the_exchanges_whatever_amounts_were_stored_as(kind: str, number: type) -> None:
    rows = [
        wire_row_2023(TIME, px="30113.0", startPosition="-0.5"),
        wire_row_2023(TIME, side="A", startPosition="0.01", closedPnl="-0.000001"),
        wire_row_2023(TIME),  # equal to the next but one: a self-trade, told apart by the row between them
        wire_row_2023(TIME, side="A", startPosition="0.01"),
        wire_row_2023(TIME),
        wire_row_2023(TIME + 1),
        wire_row_2023(TIME + 1),  # said twice
    ]
    fills = decode_page(body_of(rows))
    amounts = dict.fromkeys(("px", "sz", "start_position", "closed_pnl", "fee"), kind)
    judged = judge([stored(row, number) for row in rows], theirs_of(time="bigint", **amounts))
    tids = [one.values["tid"] for one in judged if one.values is not None]
    assert sorted(tids) == sorted(fill.tid for fill in fills if fill.tid is not None)
    assert len(tids) == 6
    assert [one.reason for one in judged] == [None] * 7


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"oid": None}, "it has no oid"),
        ({"side": "X"}, "its side 'X' can't be side"),
        ({"px": "NaN"}, "its px 'NaN' can't be px"),
        ({"time": 17}, "its time '17' can't be time"),
        ({"time": None, "coin": None}, "it has no time, coin"),
        ({"dir": None}, "none can be derived"),
    ],
)
def test_a_row_that_is_no_fill_says_why(change: dict[str, object], reason: str) -> None:
    row = stored(wire_row_2023(TIME) | change, str)
    (one,) = judge([row], theirs_of(time="bigint"))
    assert one.values is None
    assert reason in str(one.reason)
    assert one.raw == row


# -- the way ---------------------------------------------------------------------------------------


def test_a_table_as_it_should_be_needs_nothing() -> None:
    plan = planned(Shape(contract(), (KEY_INDEX,)))
    assert (plan.way, plan.steps, plan.changes) == (Way.RIGHT, (), ())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (Shape(contract(px="double precision")), "px (double precision) must become numeric"),
        (Shape(contract(oid="integer")), "oid (integer) must become bigint"),
        (Shape(contract(time="bigint")), "time (bigint) must become timestamp with time zone"),
        (Shape(tuple(one for one in contract() if one.name != "tid")), "it has no tid"),
        (Shape(contract(), kind="p"), "partitioned by Postgres"),
        (Shape(contract(), hypertable=Hypertable("block_time", "7 days", 1, 0, ("block_time",))), "block_time"),
        (Shape(contract(), hypertable=Hypertable("time", "7 days", 1, 0, ("time", "hash"))), "partitioned by hash"),
    ],
)
def test_values_that_must_be_written_anew_make_it_a_copy(shape: Shape, reason: str) -> None:
    plan = planned(shape)
    assert plan.way is Way.COPY
    assert any(reason in one for one in plan.reasons)
    assert plan.changes == ()


def test_many_odd_rows_make_it_a_copy_and_few_do_not() -> None:
    assert planned(Shape(contract()), Facts(rows=100, odd=19)).way is Way.IN_PLACE
    assert planned(Shape(contract()), Facts(rows=100, odd=21)).way is Way.COPY


def test_an_adoption_begun_in_place_never_goes_on_as_a_copy() -> None:
    with pytest.raises(SchemaMismatch, match="can't go on: too many of its rows"):
        planned(Shape(contract(), under_way=True), Facts(rows=100, odd=21))


def test_an_empty_table_becomes_a_hypertable_where_there_can_be_one() -> None:
    indexes = (Index("fills_pkey", ("id",), constraint=True),)
    columns = (*contract(), Column("id", "bigint", "N", not_null=True, has_default=True, unique_default=True))
    changes = planned(Shape(columns, indexes, timescaledb="timescale"), Facts(rows=0)).changes
    assert 'ALTER TABLE fills DROP CONSTRAINT "fills_pkey"' in changes
    for shape, facts in (
        (Shape(columns, indexes, timescaledb="timescale"), Facts(rows=1)),
        (Shape(columns, indexes, timescaledb="timescale"), Facts(sampled=True)),
        (Shape(columns, indexes), Facts(rows=0)),
    ):
        assert 'ALTER TABLE fills DROP CONSTRAINT "fills_pkey"' not in planned(shape, facts).changes


@pytest.mark.parametrize(
    ("index", "dropped"),
    [
        (Index("one", ("tid",)), True),
        (Index("one", ("user_address", "tid")), True),
        (Index("one", ("tid", "source")), True),  # always the same where vigil writes
        (Index("one", ()), True),
        (Index("one", (*KEY_INDEX.columns, "hash")), False),
        (Index("one", ("id",)), False),
        (Index("one", ("tid", "note")), False),  # NULL where vigil writes
        (Index("one", KEY_INDEX.columns, partial=True), True),
    ],
)
def test_unique_indexes_that_would_refuse_fills_are_dropped_and_no_others(index: Index, dropped: bool) -> None:
    foreign = (
        Column("id", "bigint", "N", has_default=True, unique_default=True),
        Column("source", "text", has_default=True),
        Column("note", "text"),
    )
    plan = planned(Shape((*contract(), *foreign), (KEY_INDEX, index)))
    assert ('DROP INDEX "one"' in plan.changes) is dropped


def test_a_name_of_ours_that_means_something_else_makes_room() -> None:
    plan = planned(
        Shape((*[one for one in contract() if one.name != "seq"], Column("seq", "bigint", "N", not_null=True)))
    )
    assert plan.changes == (
        'ALTER TABLE fills RENAME COLUMN "seq" TO "seq_before_adoption"',
        'ALTER TABLE fills ADD COLUMN "seq" integer',
        'ALTER TABLE fills ALTER COLUMN "seq_before_adoption" DROP NOT NULL',
    )


def test_a_hypertable_is_refused_where_there_is_no_timescaledb() -> None:
    with pytest.raises(UsageError, match="needs TimescaleDB"):
        planned(Shape(contract()), hypertable=True)


def test_a_second_copy_does_not_overwrite_what_the_first_has_left() -> None:
    with pytest.raises(SchemaMismatch, match="is still there"):
        planned(Shape(contract(px="real"), old_table=True))


# -- what people read ------------------------------------------------------------------------------


def test_the_plan_tells_what_a_unique_tid_has_dropped_and_what_helps() -> None:
    text = "\n".join(describe(Preview(planned(Shape(contract(), (Index("t", ("tid",)),), rows=5000)))))
    assert "up to 5,000 rows were dropped" in text
    assert "`vigil-backfill load` of the same archives" in text


def test_the_plan_tells_of_lost_digits_one_sided_trades_and_retention() -> None:
    floats = describe(Preview(planned(Shape(contract(fee="real")), Facts(rows=10, without_tid=2, one_sided=0.4))))
    assert any("fee: floats; digits that were lost" in line for line in floats)
    assert any("about 40% of the trades" in line for line in floats)
    table = Hypertable("time", "7 days", 3, 1, ("time",), retention=True)
    kept = describe(Preview(planned(Shape(contract(), (KEY_INDEX,), hypertable=table, timescaledb="timescale"))))
    assert any("retention policy" in line for line in kept)
    assert any("chunks of 7 days, 3 chunks, 1 of them compressed" in line for line in kept)
