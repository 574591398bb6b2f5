"""Decoding pages: what was recorded comes out as it went in, and no row can harm its neighbours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import USER, Row, body_of, fill_of, page_of, steadily, wire_row, wire_row_2023
from vigil.copy_text import (
    COPY_COLUMNS,
    Stretch,
    archived_line,
    copy_line,
    copy_lines,
    instant,
    line_columns,
    ms_of,
    rejected_line,
    stretches_of,
)
from vigil.fills import BIGINT_MAX, LATEST_MS, Fill, Page, UndecodablePage, decode_page

AMOUNTS = ("px", "sz", "startPosition", "closedPnl", "fee", "builderFee")


KNOWN = {*wire_row(), "cloid", "builderFee", "liquidation", "#seq", "#extra"}

storable_characters = st.sampled_from("\\\t\n\r\b\f\v N.'\"é€😀u0\x01\x7f\u2028") | st.characters(
    exclude_categories=["Cs"], exclude_characters="\x00"
)
storable = st.text(storable_characters, max_size=12).filter(
    lambda text: r"\u0000" not in text
)  # see the findings below


def with_json(name: str, value: str) -> bytes:
    """A page of one row that has `value`, written as JSON, under `name`."""
    row = {key: kept for key, kept in wire_row().items() if key != name}
    return f"[{json.dumps(row)[:-1]}, {json.dumps(name)}: {value}}}]".encode()


def served(row: Row) -> Row:
    """What `dict(fill)` must be: the row without its nulls."""
    return {name: value for name, value in row.items() if value is not None}


def given_tid(fill: Fill) -> int:
    assert fill.tid is not None
    return fill.tid


# -- the COPY text format, read back as Postgres would -----------------------------------------

UNESCAPED = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\", "b": "\b", "f": "\f", "v": "\v"}


def copied(line: str) -> list[str | None]:
    """The columns of one COPY line; it must be one line."""
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert "\r" not in line
    return [None if text == r"\N" else unescape(text) for text in line[:-1].split("\t")]


def unescape(text: str) -> str:
    characters = iter(text)
    return "".join(UNESCAPED[next(characters)] if character == "\\" else character for character in characters)


def columns_of(fill: Fill) -> dict[str, str | None]:
    """As a line tells them, but for the time: in ms, as the exchange has it."""
    columns = dict(zip(COPY_COLUMNS, copied(copy_line(USER, fill)), strict=True))
    return columns | {"time": str(ms_of(columns["time"] or "")), "crossed": str(columns["crossed"]).capitalize()}


# -- recorded answers ----------------------------------------------------------------------------


def recordings(folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """Every recorded list of rows, oldest first."""
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_bytes())
        lists = {"": content} if isinstance(content, list) else {k: v for k, v in content.items() if k != "note"}
        for name, rows in lists.items():
            plain = [row.get("fill", row) for row in rows]
            yield f"{path.name} {name}".strip(), plain if plain[0]["time"] <= plain[-1]["time"] else plain[::-1]


def test_every_recorded_row_comes_back_as_it_was_served(real_fills: Path) -> None:
    count = 0
    for name, rows in recordings(real_fills):
        page = page_of(rows)
        assert page.rejected == (), name
        assert (len(page), page.rows) == (len(rows), len(rows)), name
        for row, fill in zip(rows, page, strict=True):
            wire = dict(fill)
            if row.get("tid") is None:
                assert wire.pop("tid") < 0, name
            assert wire == served(row), name
            assert fill.extra == ({key: row[key] for key in row.keys() & {"feeTrialEscrow"}} or None), name
        count += len(rows)
    assert count > 10_000


def test_every_recorded_row_has_columns_that_read_back_as_served(real_fills: Path) -> None:
    names = {"start_position": "startPosition", "closed_pnl": "closedPnl", "fee_token": "feeToken",
             "twap_id": "twapId", "builder_fee": "builderFee"}  # fmt: skip
    for name, rows in recordings(real_fills):
        for row, fill in zip(rows, page_of(rows), strict=True):
            columns = columns_of(fill)
            liquidation = columns.pop("liquidation")
            assert (json.loads(liquidation) if liquidation else None) == row.get("liquidation"), name
            for column in columns.keys() - {"user_address", "seq", "extra", "tid"}:
                value = row.get(names.get(column, column))
                assert columns[column] == (None if value is None else str(value)), (name, column)


def test_a_recorded_key_is_never_shared_by_two_rows(real_fills: Path) -> None:
    for name, rows in recordings(real_fills):
        page = page_of(rows)
        assert len({fill.key for fill in page}) == len(rows), name


def test_the_recorded_page_boundary_is_the_same_fill_on_both_sides(real_fills: Path) -> None:
    boundary = dict(recordings(real_fills))
    before, after = (page_of(boundary[f"page_boundary.json {name}"]) for name in ("page1_tail", "page2_head"))
    assert before[-1].key == after[0].key


def test_all_recorded_rows_of_2023_get_tids_of_their_own_that_do_not_depend_on_the_page(real_fills: Path) -> None:
    rows = dict(recordings(real_fills))["user_fills_2023.json"]
    whole = [given_tid(fill) for fill in page_of(rows)]
    assert len(set(whole)) == len(rows) == 500
    assert all(-BIGINT_MAX - 1 <= tid < 0 for tid in whole)
    first_of_ms = {row["time"]: index for index, row in reversed(list(enumerate(rows)))}
    for cut in range(1, len(rows), 7):  # a page ends at `cut`, the next begins with the whole millisecond
        again = first_of_ms[rows[cut]["time"]]
        assert [fill.tid for fill in page_of(rows[:cut])] == whole[:cut]
        assert [fill.tid for fill in page_of(rows[again:])] == whole[again:]


# -- one row ---------------------------------------------------------------------------------------


def test_a_fill_reads_by_the_exchanges_names_and_by_attribute() -> None:
    fill = fill_of(wire_row(5, 7, cloid="0x" + "1" * 32, builderFee="0.01"))
    assert (fill["startPosition"], fill.start_position) == ("0.0", "0.0")
    assert (fill["cloid"], fill["builderFee"]) == (fill.cloid, fill.builder_fee)
    assert fill.key == (5, "BTC", 10_007, 7, "B")
    assert fill["twapId"] is None
    with pytest.raises(KeyError):
        fill["neverHeardOf"]


def test_unknown_keys_survive_with_exact_numbers() -> None:
    digits = "0.1234567890123456789012345"
    page = decode_page(with_json("new", f'{{"a": 1.10, "b": [{digits}, null, true], "c": {"9" * 25}, "d": "text"}}'))
    assert page.rejected == ()
    extra = page[0].extra
    assert extra == {"new": {"a": Decimal("1.10"), "b": [Decimal(digits), None, True], "c": int("9" * 25), "d": "text"}}
    stored = columns_of(page[0])["extra"]
    assert stored is not None
    assert f'"a":1.10,"b":[{digits},null,true],"c":{"9" * 25}' in stored
    assert json.loads(stored, parse_float=Decimal) == extra


def test_an_unknown_null_is_kept_too() -> None:
    assert dict(fill_of(wire_row(new=None)))["new"] is None


numbers = st.decimals(-(10**20), 10**20, places=12)
unknown_names = st.text(storable_characters, min_size=1).filter(lambda name: name not in KNOWN)
unknown_values = storable | st.booleans() | st.none() | st.integers(-(10**40), 10**40) | numbers


@given(st.dictionaries(unknown_names, unknown_values, min_size=1, max_size=4))
@steadily(150)
def test_any_unknown_key_reaches_its_column_unchanged(extra: dict[str, Any]) -> None:
    row = json.dumps(wire_row())[:-1]
    for name, value in extra.items():
        row += f", {json.dumps(name)}: {value if isinstance(value, Decimal) else json.dumps(value)}"
    body = f"[{row}}}]".encode()
    page = decode_page(body)
    assert page.rejected == ()
    assert page[0].extra == extra
    stored = columns_of(page[0])["extra"]
    assert stored is not None
    assert json.loads(stored, parse_float=Decimal) == extra


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize("number", ["0.10", "-3", "15105850.5999999996", "1e-7", "123456789012345678901234567890"])
def test_an_amount_sent_as_a_number_is_kept_to_the_last_digit(name: str, number: str) -> None:
    page = decode_page(with_json(name, number))
    assert page.rejected == ()
    assert Decimal(page[0][name]) == Decimal(number)
    assert len(Decimal(page[0][name]).as_tuple().digits) == len(Decimal(number).as_tuple().digits)


def test_integers_and_booleans_sent_as_text_are_understood() -> None:
    fill = fill_of(wire_row(5, 7) | {"time": "5", "oid": "12", "tid": "13", "crossed": "false", "twapId": "14"})
    assert (fill.time, fill.oid, fill.tid, fill.crossed, fill.twap_id) == (5, 12, 13, False, 14)


def test_the_same_row_is_the_same_fill_however_it_was_decoded() -> None:
    row = wire_row(5, 7, liquidation={"markPx": "1.0", "method": "market", "liquidatedUser": USER})
    plain, escaped = page_of([row]), decode_page(body_of([row]).replace(b"BTC", b"\\u0042TC"))
    assert list(plain) == list(escaped)
    assert copy_line(USER, plain[0]) == copy_line(USER, escaped[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("px", None), ("px", True), ("px", "1,5"), ("px", ""), ("px", "abc"), ("px", "NaN"), ("px", "Infinity"),
        ("px", [1]), ("px", {}), ("px", "1" * 201), ("sz", "0x10"), ("fee", "1e9999"), ("startPosition", "--1"),
        ("side", 1), ("side", None), ("coin", None), ("coin", 7), ("dir", {}), ("hash", 0), ("crossed", "perhaps"),
        ("time", None), ("time", -1), ("time", LATEST_MS + 1), ("time", 1.5), ("time", True), ("time", "soon"),
        ("oid", None), ("oid", -1), ("oid", BIGINT_MAX + 1), ("oid", 10**30), ("tid", -1), ("tid", True),
        ("tid", BIGINT_MAX + 1), ("twapId", {"a": 1}), ("cloid", 5), ("builderFee", "free"),
        ("coin", "B\x00C"), ("feeToken", "\x00"), ("new", "a\x00b"), ("new", {"deep": ["\x00"]}), ("\x00", 1),
        ("coin", "\ud800"), ("new", "\udfff"), ("\ud83d", 1), ("liquidation", {"method": "\x00"}),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_a_fill_is_rejected_alone_and_raw(name: str, value: object) -> None:
    good = [wire_row(5, 1), wire_row(5, 2)]
    bad = wire_row(5, 3) | {name: value}
    page = page_of([good[0], bad, good[1]])
    assert [dict(fill) for fill in page] == [served(row) for row in good]
    assert page.rows == 3
    (rejected,) = page.rejected
    assert json.loads(rejected.raw) == bad
    assert rejected.reason
    rejected.raw.encode()
    rejected.reason.encode()
    assert rejected.time == (None if name == "time" else 5)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_not_json_cost_one_row_at_most(constant: str) -> None:
    bad = with_json("px", constant)[1:-1]
    page = decode_page(b"[" + json.dumps(wire_row(5, 2)).encode() + b"," + bad + b"]")
    assert [fill.tid for fill in page] == [2]
    assert len(page.rejected) == 1
    assert constant in page.rejected[0].raw
    extra = decode_page(with_json("new", constant))[0].extra
    assert extra == {"new": constant}


@pytest.mark.parametrize("row", [None, 1, 1.5, True, "text", [], [wire_row()], {}])
def test_an_element_that_is_no_row_is_rejected_beside_a_good_one(row: object) -> None:
    page = page_of([row, wire_row()])
    assert (len(page), len(page.rejected), page.rows) == (1, 1, 2)
    assert json.loads(page.rejected[0].raw) == row
    assert page.rejected[0].time is None


# -- bodies that are no page -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"{}", b"5", b'"text"', b"true", b"[", b"[{]", b"[1,]", b"\xff\xfe\xff", b"[] []",
        b"<html><body>502 Bad Gateway</body></html>", b"<!DOCTYPE html>\n", body_of([wire_row()])[:-1],
        body_of([wire_row()])[: len(body_of([wire_row()])) // 2], b'[{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}]",
        b"[" * 200_000,
    ],
    ids=range(18),
)  # fmt: skip
def test_a_body_that_is_no_array_of_rows_is_undecodable(body: bytes) -> None:
    with pytest.raises(UndecodablePage, match="the body is"):
        decode_page(body)


def test_an_empty_array_is_an_empty_page() -> None:
    page = decode_page(b" [ ] ")
    assert (list(page), page.rejected, page.rows, page.body_bytes) == ([], (), 0, 5)


@pytest.mark.parametrize("depth", [*range(100, 901, 200), *range(930, 1001, 2)])
def test_nesting_of_any_depth_is_kept_rejected_or_undecodable(depth: int) -> None:
    row = json.dumps(wire_row())[:-1] + f', "deep": {"[" * depth}{"]" * depth}'
    for bodies in ([row + "}"], [row + "}", row + "}"], [row + ', "y": NaN}'], [row + "}", row + ', "px": "7"}']):
        body = f"[{','.join(bodies)}]".encode()
        try:
            page = decode_page(body)
        except UndecodablePage:
            continue
        assert len(page) <= 1 <= len(page) + len(page.rejected)
        for fill in page:
            copy_line(USER, fill).encode()


# -- anything at all -------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()), max_size=12)  # lone surrogates and NUL too
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts | st.sampled_from(["1.0", "5", "B"])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


@st.composite
def strange_rows(draw: st.DrawFn) -> object:
    if draw(st.booleans()):
        return draw(anything)
    row = wire_row(draw(st.integers(0, 3)), draw(st.integers(0, 3)))  # few tids, so that keys repeat
    name = draw(st.sampled_from([*row, "cloid", "builderFee", "liquidation", "new"]) | texts)
    if draw(st.booleans()):
        row.pop(name, None)
        return row
    return row | {name: draw(anything)}


good_rows = st.integers(0, 3).map(lambda time: ("good", time))


@given(st.lists(good_rows | strange_rows().map(lambda row: ("strange", row)), max_size=8), st.booleans())
@steadily(300)
def test_among_any_rows_the_good_ones_always_survive(picked: list[tuple[str, Any]], escape: bool) -> None:
    rows: list[Any] = []
    good: list[Row] = []
    for number, (kind, value) in enumerate(picked):
        rows.append(wire_row(value, 10**12 + number) if kind == "good" else value)
        good += [rows[-1]] if kind == "good" else []
    page = decode_page(json.dumps(rows, ensure_ascii=escape).encode("utf-8", "surrogatepass"))
    good_tids = {row["tid"] for row in good}
    assert [dict(fill) for fill in page if fill.tid in good_tids] == [served(row) for row in good]
    assert page.rows == len(rows)
    repeats = page.rows - len(page) - len(page.rejected)
    assert 0 <= repeats <= max(0, len(rows) - len(good) - 1)  # a good row is no repeat, nor is the first of the others
    for fill in page:
        copied(copy_line(USER, fill).encode().decode())
    for rejected in page.rejected:
        rejected.raw.encode()
        rejected.reason.encode()
    assert len(page) + sum(row.time is not None for row in page.rejected) <= page.rows


TWO_ROWS = body_of([wire_row(), wire_row(tid=2)])
damaged = st.builds(
    lambda at, lost, noise: TWO_ROWS[:at] + noise + TWO_ROWS[at + lost :],
    st.integers(0, len(TWO_ROWS)),
    st.integers(0, 3),
    st.binary(max_size=3),
)


@given(st.binary(max_size=60) | damaged)
@steadily(300)
def test_any_bytes_are_a_page_or_undecodable(body: bytes) -> None:
    try:
        page = decode_page(body)
    except UndecodablePage:
        return
    assert isinstance(page, Page)
    assert len(page) + len(page.rejected) <= page.rows
    assert page.body_bytes == len(body)


# -- repeats, conflicts, places --------------------------------------------------------------------


def test_a_row_served_twice_is_one_fill_and_counts_as_two_rows() -> None:
    page = page_of([wire_row(5, 1), wire_row(5, 2), wire_row(5, 1)])
    assert [fill.tid for fill in page] == [1, 2]
    assert (page.rows, page.rejected) == (3, ())


def test_a_row_with_a_known_key_but_other_content_is_rejected_and_the_first_stays() -> None:
    other = wire_row(5, 1, px="7.0", new=1)
    page = page_of([wire_row(5, 1), wire_row(5, 2), other])
    assert [(fill.tid, fill.px) for fill in page] == [(1, "42000.5"), (2, "42000.5")]
    (rejected,) = page.rejected
    assert json.loads(rejected.raw) == served(other)
    assert "differs" in rejected.reason
    assert rejected.time == 5


@given(
    st.lists(st.builds(wire_row, st.integers(5, 6), st.integers(1, 2), px=st.sampled_from(["1.0", "2.0"])), max_size=9)
)
@steadily(100)
def test_the_first_row_of_each_key_stays_and_every_other_is_a_repeat_or_rejected(rows: list[Row]) -> None:
    firsts: dict[tuple[int, int], Row] = {}
    differing = [row for row in rows if firsts.setdefault((row["time"], row["tid"]), row)["px"] != row["px"]]
    page = page_of(rows)
    assert [dict(fill) for fill in page] == [served(row) for row in firsts.values()]
    assert [json.loads(rejected.raw) for rejected in page.rejected] == [served(row) for row in differing]
    assert page.rows == len(rows)


@pytest.mark.parametrize("change", [{"side": "A"}, {"coin": "ETH"}, {"oid": 5}, {"tid": 9}, {"time": 6}])
def test_each_part_of_the_key_tells_two_fills_apart(change: Row) -> None:
    page = page_of([wire_row(5, 1), wire_row(5, 1) | change])
    assert (len(page), page.rejected) == (2, ())


def test_seq_counts_the_fills_inside_each_millisecond() -> None:
    broken = wire_row(6, 9) | {"px": None}
    page = page_of(
        [wire_row(5, 1), wire_row(6, 2), wire_row(6, 2), broken, wire_row(6, 3), wire_row(6, 4), wire_row(7, 5)]
    )
    assert [(fill.time, fill.seq) for fill in page] == [(5, 0), (6, 0), (6, 1), (6, 2), (7, 0)]


# -- rows without a tid ----------------------------------------------------------------------------

BOUGHT = wire_row_2023()
SOLD = wire_row_2023(side="A", startPosition="0.01", dir="Close Long", closedPnl="-0.1", crossed=False)


def tids_of(rows: Sequence[Row]) -> list[int]:
    return [given_tid(fill) for fill in page_of(rows)]


def test_derived_tids_are_the_same_in_every_version() -> None:
    """They are in people's databases: a change here stores every row of 2023 a second time."""
    assert tids_of([BOUGHT, SOLD]) == [-3_432_085_474_709_147_266, -992_778_189_229_880_247]


@given(st.lists(st.sampled_from(["fee", "px", "sz", "startPosition", "closedPnl", "dir", "hash", "coin"]), unique=True))
@steadily(50)
def test_derived_tids_are_negative_bigints_that_differ_with_the_content(names: list[str]) -> None:
    rows = [BOUGHT, *(BOUGHT | {name: "7.5"} for name in names)]
    derived = tids_of(rows)
    assert len(set(derived)) == len(rows)
    assert all(-BIGINT_MAX - 1 <= tid < 0 for tid in derived)


def test_a_tid_that_was_given_is_kept_even_zero() -> None:
    assert [fill.tid for fill in page_of([wire_row(tid=0), wire_row_2023(tid=3)])] == [0, 3]


def test_a_self_trade_that_comes_back_to_where_it_was_is_three_fills() -> None:
    page = page_of([BOUGHT, SOLD, BOUGHT])
    assert (len(page), page.rejected) == (3, ())
    assert len(set(tids_of([BOUGHT, SOLD, BOUGHT, SOLD]))) == 4


def test_the_same_row_twice_in_a_row_is_one_fill() -> None:
    page = page_of([BOUGHT, BOUGHT])
    assert (len(page), page.rows, page.rejected) == (1, 2, ())


FURTHER = wire_row_2023(startPosition="0.01", sz="0.02")


def test_two_rows_served_twice_are_two_fills_when_the_position_moved_on() -> None:
    page = page_of([BOUGHT, FURTHER, BOUGHT, FURTHER])
    assert (len(page), page.rows, page.rejected) == (2, 4, ())


def test_other_coins_in_between_do_not_break_the_chain() -> None:
    rows = [BOUGHT, wire_row_2023(coin="ETH"), SOLD, BOUGHT]
    assert len(set(tids_of(rows))) == 4


@given(st.lists(st.sampled_from(["bought", "sold", "eth", "later"]), min_size=1, max_size=9), st.integers(0, 9))
@steadily(150)
def test_a_page_edge_inside_a_millisecond_changes_no_derived_tid(names: list[str], edge: int) -> None:
    kinds = {"bought": BOUGHT, "sold": SOLD, "eth": wire_row_2023(coin="ETH")}
    rows = [wire_row_2023(hash=f"0x{n:064x}") if name == "later" else kinds[name] for n, name in enumerate(names)]
    whole, cut = tids_of(rows), tids_of(rows[:edge])
    assert whole[: len(cut)] == cut
    before = wire_row_2023(BOUGHT["time"] - 1)
    assert tids_of([before, *rows])[1:] == whole


# -- the COPY line ---------------------------------------------------------------------------------


def test_a_copy_line_holds_every_column_in_order() -> None:
    row = wire_row(5, 7, cloid="0xc", builderFee="0.01", liquidation={"method": "market"}, twapId=3, new=[1])
    assert columns_of(fill_of(row)) == {
        "user_address": USER, "time": "5", "coin": "BTC", "side": "B", "px": "42000.5", "sz": "0.01",
        "start_position": "0.0", "closed_pnl": "0.0", "fee": "0.105001", "dir": "Open Long", "hash": row["hash"],
        "oid": "10007", "crossed": "True", "fee_token": "USDC", "tid": "7", "twap_id": "3", "cloid": "0xc",
        "builder_fee": "0.01", "liquidation": '{"method":"market"}', "seq": "0", "extra": '{"new":[1]}',
        "block_time": None,
    }  # fmt: skip


def test_what_a_row_lacks_is_null() -> None:
    columns = columns_of(fill_of(wire_row_2023()))
    nulls = {name for name, value in columns.items() if value is None}
    assert nulls == {"fee_token", "twap_id", "cloid", "builder_fee", "liquidation", "extra", "block_time"}


def test_an_archived_fill_has_the_time_of_its_block_and_no_place_among_what_the_exchange_serves() -> None:
    fill = fill_of(wire_row(twapId=3))
    known = line_columns(copy_line(USER, fill))
    archived = line_columns(archived_line(USER, fill, "2025-07-27T08:50:10.273720Z"))
    assert archived == known | {"seq": None, "block_time": "2025-07-27T08:50:10.273720Z"}
    assert line_columns(archived_line(USER, fill, None))["block_time"] is None


@given(st.lists(st.tuples(storable, storable, st.none() | storable | st.just("null"), st.booleans()), max_size=4))
@steadily(300)
def test_many_lines_at_once_are_the_lines_one_by_one(told: list[tuple[str, str, str | None, bool]]) -> None:
    fills = [
        fill_of(wire_row(n, n, coin=coin, dir=direction, feeToken=direction, cloid=cloid, crossed=crossed))
        for n, (coin, direction, cloid, crossed) in enumerate(told)
    ]
    assert copy_lines(USER, fills) == "".join(copy_line(USER, fill) for fill in fills).encode()


@pytest.mark.parametrize("text", [",null", "null", "]", "[", '"', "{}", ",", "],[", "\\N", "", "é😀"])
def test_a_text_like_the_punctuation_of_many_lines_is_not_taken_for_it(text: str) -> None:
    page = page_of([wire_row(5, 1, coin=text, dir=text, cloid=text), wire_row(5, 2, twapId=1)])
    lines = copy_lines(USER, page).decode()
    assert lines == "".join(copy_line(USER, fill) for fill in page)
    assert [copied(f"{line}\n")[2] for line in lines.removesuffix("\n").split("\n")] == [text, "BTC"]


@given(st.integers(0, LATEST_MS))
def test_an_instant_reads_back_as_its_milliseconds_and_sorts_as_they_do(ms: int) -> None:
    assert ms_of(instant(ms)) == ms
    assert instant(ms) <= instant(min(ms + 1, LATEST_MS))


def test_sorted_lines_tell_how_many_rows_of_whom_lie_between_which_times() -> None:
    others = [f"0x{n:040x}" for n in (1, 0xA, 0x10)]
    lines = sorted(copy_line(user, fill_of(wire_row(time, time))) for user in others for time in (1000, 2500, 70_000))
    assert stretches_of(lines) == [Stretch(user, instant(1000), instant(70_000), 3) for user in sorted(others)]
    later, earlier = Stretch(min(others), instant(70_000), instant(70_000), 1), instant(1000)
    assert stretches_of(lines[2:4]) == [later, Stretch(sorted(others)[1], earlier, earlier, 1)]
    assert stretches_of([]) == []


@given(storable, storable, st.one_of(st.none(), storable), st.dictionaries(storable, st.integers() | storable))
@steadily(300)
def test_a_row_that_is_refused_by_the_database_is_the_row_that_was_sent(
    coin: str, direction: str, cloid: str | None, unknown: dict[str, object]
) -> None:
    extra: dict[str, Any] = {f"new {name}": value for name, value in unknown.items()}
    row = wire_row(5, coin=coin, dir=direction, cloid=cloid, liquidation={"markPx": "1.50"}, crossed=False, **extra)
    fill = fill_of(row)
    user, rejected = rejected_line(copy_line(USER, fill), "too large")
    assert (user, rejected.reason, rejected.time) == (USER, "too large", 5)
    assert rejected.raw == json.dumps(dict(fill), default=str)


@pytest.mark.parametrize("name", ["px", "builderFee"])
@pytest.mark.parametrize("value", ["1,5", ",", "1,", "", "1 ", "1\n"])
def test_an_amount_is_checked_by_itself_also_when_many_are_at_once(name: str, value: str) -> None:
    page = page_of([wire_row(5, 1), wire_row(5, 2, **{name: value}), wire_row(5, 3)])
    assert [fill.tid for fill in page] == [1, 3]


@given(storable, storable, storable, storable, storable, storable)
@steadily(300)
def test_any_text_survives_the_copy_format(
    coin: str, direction: str, side: str, fee_token: str, method: str, unknown: str
) -> None:
    row = wire_row(
        coin=coin, dir=direction, side=side, feeToken=fee_token, liquidation={"method": method}, new={unknown: unknown}
    )
    columns = columns_of(fill_of(row))
    assert (columns["coin"], columns["dir"], columns["side"], columns["fee_token"]) == (
        coin,
        direction,
        side,
        fee_token,
    )
    assert json.loads(columns["liquidation"] or "") == {"method": method}
    assert json.loads(columns["extra"] or "") == {"new": {unknown: unknown}}


@pytest.mark.parametrize("text", [r"\N", r"\.", "\\", "\t", "\n", "\r\n", r"\t", r"\\n", ""])
def test_text_that_looks_like_copy_syntax_is_only_text(text: str) -> None:
    columns = columns_of(fill_of(wire_row(coin=text, cloid=text)))
    assert (columns["coin"], columns["cloid"]) == (text, text)


# -- findings, each to be turned into a plain test by its fix ----------------------------------------


@pytest.mark.parametrize("name", AMOUNTS[:5])
def test_an_amount_that_ends_in_a_newline_never_reaches_a_copy_line(name: str) -> None:
    for fill in page_of([wire_row() | {name: "1.0\n"}]):
        columns_of(fill)


@pytest.mark.parametrize("number", ["1e99999999999999999999", "-1e-99999999999999999999"])
@pytest.mark.parametrize("name", ["px", "new"])
def test_an_exponent_beyond_decimal_costs_its_row_at_most(name: str, number: str) -> None:
    good = json.dumps(wire_row(5, 2)).encode()
    page = decode_page(b"[" + good + b"," + with_json(name, number)[1:-1] + b"]")
    assert 2 in [fill.tid for fill in page]


def test_an_integer_of_thousands_of_digits_costs_its_row_at_most() -> None:
    good = json.dumps(wire_row(5, 2)).encode()
    page = decode_page(b"[" + good + b"," + with_json("oid", "9" * 5000)[1:-1] + b"]")
    assert [fill.tid for fill in page] == [2]


@pytest.mark.parametrize("name", ["coin", "new"])
def test_text_that_only_looks_like_an_escaped_nul_is_kept(name: str) -> None:
    assert page_of([wire_row() | {name: r"\u0000"}]).rejected == ()
