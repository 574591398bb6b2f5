"""Reading archives: every row comes out once, whatever the file is packed in, cut at, or mixed with."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.archives import START, USERS, block_line, events_of, lines_of, packed
from tests.kit.factories import Row, steadily, wire_row, wire_row_2023
from vigil.archives import EVERYTHING, Batch, BatchSize, NotFills, Place, Scope, batches
from vigil.archives import lines as lines_module
from vigil.archives.unpack import unpacked
from vigil.copy_text import instant, line_columns
from vigil.fills import Rejected

SIZE = BatchSize(7, 1 << 20)


@dataclass
class Read:
    """All batches of a file."""

    batches: list[Batch]
    columns: list[dict[str, str | None]] = field(default_factory=list)

    @property
    def tids(self) -> list[int]:
        return sorted(int(row["tid"] or 0) for row in self.columns)

    @property
    def rejected(self) -> list[tuple[str, Rejected]]:
        return [one for batch in self.batches for one in batch.rejected]

    @property
    def error(self) -> str | None:
        return self.batches[-1].error


def read(
    data: bytes, *points: Place, scope: Scope = EVERYTHING, size: BatchSize = SIZE, chunk_bytes: int = 1000
) -> Read:
    def opened() -> Iterator[bytes]:
        for at in range(0, len(data), chunk_bytes):
            yield data[at : at + chunk_bytes]

    found = list(batches(opened, points, scope, size, lambda: io.BytesIO(data)))
    assert found[-1].last
    assert not any(batch.last for batch in found[:-1])
    for batch in found:
        lines = batch.lines.decode().splitlines(keepends=True)
        assert len(lines) == batch.rows
        assert lines == sorted(lines)
        assert {line.split("\t")[0] for line in lines} == set(batch.users)
    return Read(found, [line_columns(line) for batch in found for line in batch.lines.decode().splitlines()])


def one(line: str) -> dict[str, str | None]:
    (row,) = read(f"{line}\n".encode()).columns
    return row


# Formats


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "lz4": lz4.frame.compress,
    "lz4 in many blocks": packed,
    "several lz4 frames": lambda text: b"".join(packed(text[at : at + 999]) for at in range(0, len(text), 999)),
    "gzip": gzip.compress,
    "two gzip members": lambda text: gzip.compress(text[:500]) + gzip.compress(text[500:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lz4 and padding": lambda text: packed(text) + b"\0" * 512,
}


@pytest.mark.parametrize("chunk_bytes", [1, 61, 100_000])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_file_is_what_it_holds_however_it_is_packed(packing: str, chunk_bytes: int) -> None:
    found = read(PACKINGS[packing](lines_of(events_of(40))), chunk_bytes=chunk_bytes)
    assert found.tids == list(range(1, 41))
    assert (found.error, found.rejected) == (None, [])


def test_a_bomb_is_unpacked_in_pieces() -> None:
    text = lines_of(events_of(3)) + b"\n" * 100_000
    for pack in (lz4.frame.compress, gzip.compress):
        pieces = list(unpacked(iter([pack(text)]), 1000))
        assert max(map(len, pieces)) <= 1000
        assert b"".join(pieces) == text


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n  \n"])
def test_lines_of_pairs_and_of_blocks_may_stand_in_one_file(ending: str) -> None:
    lines = [json.dumps(list(event)) for event in events_of(3)] + [block_line(events_of(3, 4)), block_line([])]
    found = read("".join(line + ending for line in lines).encode())
    assert found.tids == [1, 2, 3, 4, 5, 6]
    assert [row["block_time"] for row in found.columns].count(None) == 3


def test_a_row_keeps_everything() -> None:
    fill = wire_row(
        START, 7, twapId=9, cloid="0xc", builderFee="0.01", liquidation={"markPx": "1.50", "method": "market"},
        builder="0xb", deployerFee="0.5", priorityGas=12, feeTrialEscrow="0.1", side="A", crossed=False,
    )  # fmt: skip
    row = one(block_line([(USERS[0].upper().replace("X", "x"), fill)]))
    extra = json.loads(row.pop("extra") or "")
    assert extra == {"builder": "0xb", "deployerFee": "0.5", "priorityGas": 12, "feeTrialEscrow": "0.1"}
    assert row == {
        "user_address": USERS[0], "time": instant(START), "coin": "BTC", "side": "A", "px": "42000.5", "sz": "0.01",
        "start_position": "0.0", "closed_pnl": "0.0", "fee": "0.105001", "dir": "Open Long", "hash": fill["hash"],
        "oid": "10007", "crossed": "false", "fee_token": "USDC", "tid": "7", "twap_id": "9", "cloid": "0xc",
        "builder_fee": "0.01", "liquidation": '{"markPx":"1.50","method":"market"}', "seq": None,
        "block_time": "2025-07-28T00:00:00.273720Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [
        {"new": {"a": [1, 2.50]}}, {"coin": "a\\b\tc"}, {"px": 1.5}, {"oid": "5"}, {"priorityGas": 1.25},
        {"builder": {"name": "x"}}, {"liquidation": {"markPx": 1}},
    ],
)  # fmt: skip
def test_an_odd_row_costs_time_but_is_read_as_the_exchanges_are_and_so_are_its_neighbours(odd: Row) -> None:
    events = [(USERS[0], wire_row(START, 1)), (USERS[1], wire_row(START, 2) | odd), (USERS[2], wire_row(START, 3))]
    found = read(f"{block_line(events)}\n{block_line(events_of(1, 4))}\n".encode())
    assert found.tids == [1, 2, 3, 4]
    assert [row["block_time"] for row in found.columns] == ["2025-07-28T00:00:00.273720Z"] * 4


def test_a_known_key_that_comes_as_null_covers_nothing() -> None:
    assert one(block_line([(USERS[0], wire_row(builder=None, priorityGas=None))]))["extra"] is None
    assert one(block_line([(USERS[0], wire_row(builder=None, new=None, other=1))]))["extra"] == '{"new":null,"other":1}'


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ("2025-07-28T08:50:10.273720999", "2025-07-28T08:50:10.273720Z"),  # cut, never rounded up
        ("2025-07-28T08:50:10", "2025-07-28T08:50:10.000000Z"),
        ("2025-07-28 08:50:10.5Z", "2025-07-28T08:50:10.500000Z"),
        ("2025-07-28T08:50:10.1+02:00", "2025-07-28T08:50:10.100000+02:00"),
    ],
)
def test_the_time_of_a_block_is_cut_after_the_microsecond(told: str, stored: str) -> None:
    assert one(block_line(events_of(1), told))["block_time"] == stored


@pytest.mark.parametrize("told", ["yesterday", "2025-13-01T00:00:00", 5, {"a": 1}])
def test_a_time_of_a_block_that_can_not_be_read_is_kept_as_it_is(told: object) -> None:
    row = one(block_line(events_of(1), told))
    assert row["block_time"] is None
    assert json.loads(row["extra"] or "") == {"block_time": told}


# What can't be a fill


def test_what_can_not_be_a_fill_is_rejected_alone_with_its_user_where_it_names_one() -> None:
    good = events_of(2)
    events: list[Any] = [good[0], (USERS[1], wire_row(START, 5, px="free")), ("nobody", wire_row(START, 6)), good[1]]
    text = f'{block_line(events)}\n{{"events": [7, ["{USERS[2]}"]]}}\nnonsense\n[1, 2]\n{block_line(events_of(1, 9))}\n'
    found = read(text.encode())
    assert found.tids == [1, 2, 9]
    users = [user for user, _ in found.rejected]
    assert users == [USERS[1], "", "", "", "", ""]
    assert json.loads(found.rejected[0][1].raw) == wire_row(START, 5, px="free")
    assert found.rejected[0][1].time == START
    assert [row.raw for _, row in found.rejected[4:]] == ["nonsense", "[1, 2]"]
    assert all(row.reason for _, row in found.rejected)
    assert found.error is None


def test_bytes_that_are_no_text_are_rejected_as_they_are() -> None:
    found = read(lines_of(events_of(1)) + b'["\xff\xfe", {}]\n' + lines_of(events_of(1, 2)))
    assert found.tids == [1, 2]
    assert [row.raw for _, row in found.rejected] == ['["\\xff\\xfe", {}]']


def test_trades_are_refused_with_a_sentence() -> None:
    trade = {"coin": "BTC", "side": "B", "time": "2025-04-01T00:00:00", "px": "1", "sz": "1", "side_info": []}
    with pytest.raises(NotFills, match="node_trades"):
        read((json.dumps(trade) + "\n").encode() * 3)


@pytest.mark.parametrize(
    "data",
    [b"hello\nworld\n", b"\n".join(b"%d" % n for n in range(50)), json.dumps([wire_row()], indent=2).encode() + b"\n"],
)
def test_a_file_of_something_else_is_refused_and_nothing_of_it_committed(data: bytes) -> None:
    with pytest.raises(NotFills, match="no archive of fills"):
        read(data)


@pytest.mark.parametrize("odd", [b"garbage\n" * 20, b'{"coin":"BTC","px":"1","sz":"1","side":"A"}\n'])
def test_lines_of_something_else_behind_ours_are_rejected_also_when_it_goes_on_there(odd: bytes) -> None:
    before, behind = lines_of(events_of(9)), lines_of(events_of(9, 10))
    place = read(before).batches[-1].place
    for points, tids in (((), range(1, 19)), ((place,), range(10, 19))):
        found = read(before + odd + behind, *points)
        assert found.tids == list(tids)
        assert len(found.rejected) == odd.count(b"\n")
    assert read(before + odd, place).error is None


def test_lz4_of_the_legacy_format_is_refused_with_a_sentence() -> None:
    with pytest.raises(NotFills, match="legacy"):
        read(b"\x02\x21\x4c\x18" + b"\0" * 20)


@pytest.mark.parametrize("data", [b"", b"\n \n", lz4.frame.compress(b"")])
def test_an_empty_file_is_in(data: bytes) -> None:
    found = read(data)
    assert (found.columns, found.rejected, found.error) == ([], [], None)


# Cut, damaged, grown


def test_a_last_line_without_an_end_is_read_if_it_is_whole() -> None:
    text = lines_of(events_of(6))
    assert read(text[:-1]).tids == list(range(1, 7))
    cut = read(text[:-2])
    assert cut.tids == [1, 2, 3]
    assert cut.error is not None
    assert "in the middle of a line" in cut.error
    assert "line 1" in cut.error


@given(st.integers(min_value=8))
@steadily(60)
def test_wherever_a_packed_file_is_cut_what_was_readable_is_read_and_the_rest_when_it_is_whole(cut: int) -> None:
    whole = packed(lines_of(events_of(30)))
    first = read(whole[: cut % len(whole)])
    if cut % len(whole):
        assert first.error is not None or cut % len(whole) < 20
    place = first.batches[-1].place
    second = read(whole, place)
    assert second.batches[0].place == place
    assert first.tids + second.tids == list(range(1, 31))
    assert second.error is None


@pytest.mark.parametrize("pack", [lz4.frame.compress, gzip.compress])
def test_a_corrupt_file_is_read_up_to_there_and_says_so(pack: Callable[[bytes], bytes]) -> None:
    data = bytearray(pack(lines_of(events_of(3000))))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    found = read(bytes(data))
    assert found.error is not None
    assert "can't be unpacked" in found.error or "cut off" in found.error


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 40))
@steadily(60)
def test_any_place_is_gone_on_from_if_the_text_is_the_same_up_to_there(stops: list[int], other: int) -> None:
    """Places of this text, and one of a text that parts from it somewhere: the furthest that agrees is taken."""
    events = events_of(40)
    text = lines_of(events, 1)
    parted = lines_of([*events[:other], *events_of(40 - other, 500)], 1)
    rows = BatchSize(1, 1 << 20)
    places = [batch.place for batch in read(text, size=rows, chunk_bytes=50).batches]
    strangers = [batch.place for batch in read(parted, size=rows, chunk_bytes=50).batches]
    known = [places[min(stop, len(places) - 1)] for stop in stops] + [strangers[-1]]
    found = read(text, *known)
    begun = found.batches[0].place
    mine = [place for place in known if place in places]
    assert begun == max(mine, default=places[0])
    assert found.tids == list(range(begun.lines_done + 1, 41))


def test_the_place_does_not_depend_on_how_the_text_is_packed() -> None:
    text = lines_of(events_of(40))
    places = {read(pack(text)).batches[-1].place for pack in PACKINGS.values()}
    assert len(places) == 1
    (place,) = places
    again = read(gzip.compress(text + lines_of(events_of(3, 41))), place)
    assert again.tids == [41, 42, 43]


def test_a_line_longer_than_memory_should_hold_ends_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vigil.archives.reading.LONGEST_LINE_BYTES", 10_000)
    found = read(lines_of(events_of(1)) + b"[" * 20_000)
    assert found.tids == [1]
    assert found.error is not None
    assert "longer" in found.error


def test_only_what_is_in_the_scope_comes_out_and_the_rest_is_counted() -> None:
    scope = Scope(START + 5, START + 30, frozenset(USERS[:2]))
    found = read(lines_of(events_of(40)) + lines_of(events_of(2, 41, new=1)), scope=scope)
    assert found.tids == [8, 9, 16, 17, 24, 25]
    assert sum(batch.passed_over for batch in found.batches) == 36
    assert scope.name != Scope(START + 5, START + 30).name != EVERYTHING.name == ""


# Parquet


pa = pytest.importorskip("pyarrow")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parquet(columns: dict[str, Any], row_group_size: int = 5) -> bytes:
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer, row_group_size=row_group_size)
    return buffer.getvalue()


def camel_case(count: int, **changes: Any) -> dict[str, Any]:
    rows = [wire_row(START + tid, tid) for tid in range(1, count + 1)]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0] if name != "twapId"}
    return {"user": [USERS[n % 8] for n in range(count)], **columns, **changes}


def test_parquet_with_the_apis_names_is_read_like_its_rows() -> None:
    columns = camel_case(
        12, twapId=[None, 5] * 6, builder=["0xb", None] * 6, liquidation=[{"markPx": "1.5", "method": "m"}, None] * 6,
        blockTime=["2025-07-28T08:50:10.273720999"] * 12, block_number=list(range(12)),
    )  # fmt: skip
    found = read(parquet(columns))
    assert found.tids == list(range(1, 13))
    expected = one(json.dumps([USERS[0], wire_row(START + 1, 1, builder="0xb")]))
    (first,) = [row for row in found.columns if row["tid"] == "1"]
    liquidation, extra = json.loads(first["liquidation"] or ""), json.loads(first["extra"] or "")
    assert liquidation == {"markPx": "1.5", "method": "m"}
    assert extra == {"builder": "0xb"}
    same = {"liquidation": None, "extra": expected["extra"], "block_time": None}
    assert first | same == expected
    assert first["block_time"] == "2025-07-28T08:50:10.273720Z"
    assert {row["twap_id"] for row in found.columns} == {None, "5"}


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.decimal128(38, 18), Decimal("15105850.5999999996"), "15105850.5999999996"),
        (pa.decimal128(38, 18), Decimal("0.000000000000000001"), "1E-18"),
        (pa.decimal128(38, 18), Decimal(-120), "-120"),
        (pa.string(), "15105850.5999999996", "15105850.5999999996"),
        (pa.int64(), 100, "100"),
        (pa.float64(), 0.1, "0.1"),
    ],
)
def test_an_amount_is_the_same_number_whatever_its_column_is(kind: Any, value: Any, text: str) -> None:
    found = read(parquet(camel_case(3, px=pa.array([value] * 3, kind))))
    assert [Decimal(row["px"] or "") for row in found.columns] == [Decimal(text)] * 3


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_time_may_be_a_timestamp_of_any_unit(unit: str) -> None:
    moments = [EPOCH + timedelta(milliseconds=START + n) for n in (1, 2, 3)]
    found = read(parquet(camel_case(3, time=pa.array(moments, pa.timestamp(unit, "UTC")))))
    assert [row["time"] for row in found.columns] == [instant(START + n) for n in (1, 2, 3)]


def test_rows_of_parquet_that_can_not_be_fills_are_rejected_alone() -> None:
    columns = camel_case(8)
    columns["px"][1] = "free"
    columns["user"][2] = "nobody"
    columns["coin"][3] = None
    columns["coin"][4] = "we\\ird\tcoin"
    columns["tid"][5] = None
    found = read(parquet(columns))
    assert [user for user, _ in found.rejected] == [USERS[1], "", USERS[3]]
    assert json.loads(found.rejected[0][1].raw)["px"] == "free"
    assert "we\\ird\tcoin" in {row["coin"] for row in found.columns}
    tids = found.tids
    assert tids[1:] == [1, 5, 7, 8]
    assert tids[0] < 0  # derived


def test_parquet_goes_on_behind_the_rows_that_are_in_and_only_of_the_very_same_file() -> None:
    data = parquet(camel_case(23))
    places = [batch.place for batch in read(data).batches]
    assert [place.lines_done for place in places] == [0, 7, 14, 21, 23, 23]
    for place in places:
        assert read(data, place).tids == list(range(place.lines_done + 1, 24))
    assert len(read(parquet(camel_case(23), row_group_size=6), places[2]).tids) == 23


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"a": [1]}, "no archive of fills"),
        ({k: v for k, v in camel_case(1).items() if k != "oid"}, "without a column for oid"),
    ],
)
def test_parquet_of_something_else_is_refused(columns: dict[str, Any], match: str) -> None:
    with pytest.raises(NotFills, match=match):
        read(parquet(columns))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.large_string(), ["100.0", "1.5", "0.0"]),
        (pa.dictionary(pa.int8(), pa.string()), ["100.0", "1.5", "0.0"]),
        (pa.float64(), [100.0, 1.5, 0.0]),
        (pa.decimal128(38, 18), [Decimal(100), Decimal("1.5"), Decimal(0)]),
    ],
)
def test_a_tid_derived_from_parquet_is_that_of_the_exchanges_row_whatever_the_columns_are(
    kind: Any, values: list[Any]
) -> None:
    rows = [wire_row_2023(START + 1, px=text, fee="-1.0") for text in ("100.0", "1.5", "0.0")]
    expected = read("".join(json.dumps([USERS[0], row]) + "\n" for row in rows).encode()).tids
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    columns |= {"user": USERS[:1] * 3, "px": pa.array(values, kind), "fee": pa.array([-1] * 3, pa.int64())}
    assert read(parquet(columns)).tids == expected


def test_whole_numbers_that_a_data_frame_made_floats_are_whole_numbers_again() -> None:
    tids = [123_456_789_012_345.0, 2.0**50 - 1, 2.0**53, 1.5, float("nan")]
    found = read(parquet(camel_case(5, tid=tids, twapId=[float("nan"), 1e12, None, 1.0, 1.0])))
    assert sorted(found.tids)[1:] == [123_456_789_012_345, 2**50 - 1]
    assert found.tids[0] < 0  # derived
    assert [row["twap_id"] for row in found.columns if row["tid"] == str(2**50 - 1)] == ["1000000000000"]
    assert [rejected.reason for _, rejected in found.rejected] == ["tid is not what it must be"] * 2


def test_a_time_of_a_block_that_parquet_tells_oddly_is_kept_as_it_is() -> None:
    found = read(parquet(camel_case(3, block_time=[START, None, 5])))
    assert [row["block_time"] for row in found.columns] == [None] * 3
    assert [row["extra"] for row in found.columns] == [f'{{"block_time":{START}}}', None, '{"block_time":5}']


def test_documents_of_parquet_are_such_as_postgres_takes_or_the_row_is_rejected_alone() -> None:
    good = ['{"a":1.10}', "", None, "[1]", "null"]
    bad = ["NaN", '{"a":NaN}', '"\\u0000"', '{"\\ud800":1}', "{"]
    found = read(parquet(camel_case(10, liquidation=good + bad)), size=BatchSize(50, 1 << 20))
    assert [row["liquidation"] for row in found.columns] == ['{"a":1.10}', None, None, "[1]", "null"]
    assert len(found.rejected) == 5
    found = read(parquet(camel_case(10, extra=good + bad, new=["x"] * 9 + ["a\0b"])), size=BatchSize(50, 1 << 20))
    extras = [json.loads(row["extra"] or "") for row in found.columns]
    new = {"new": "x"}
    assert extras == [{"a": 1.1} | new, new, new, {"extra": [1]} | new, new]
    assert len(found.rejected) == 5


def test_parquet_whose_text_is_no_text_is_read_up_to_there_and_says_so() -> None:
    offsets = pa.array(range(9), pa.int32()).buffers()[1]
    coin = pa.StringArray.from_buffers(8, offsets, pa.py_buffer(b"ABCDEFG\xff"))
    found = read(parquet(camel_case(8, coin=coin)))
    assert found.tids == list(range(1, 8))
    assert "beyond row 7" in (found.error or "")


def test_a_cut_parquet_file_is_refused() -> None:
    with pytest.raises(NotFills, match="can be read"):
        read(parquet(camel_case(10))[:-7])


def test_a_missing_library_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet(camel_case(1))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(NotFills) as caught:
        read(data)
    assert "pip install 'vigil-backfill[parquet]'" in caught.value.hint


def test_ordinary_lines_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow path is for what is odd: it must not be what everybody takes."""
    monkeypatch.setattr(lines_module.Rows, "_add_line", None)
    assert read(lines_of(events_of(20, builder="0xb", cloid="0xc"))).tids == list(range(1, 21))
    pairs = "".join(json.dumps(list(event)) + "\n" for event in events_of(20)).encode()
    assert read(pairs).tids == list(range(1, 21))


def test_archives_of_recorded_rows_come_out_as_they_were_recorded(real_fills: Path) -> None:
    from vigil.copy_text import copy_line
    from vigil.fills import decode_page

    path = next(path for path in sorted(real_fills.glob("*.json")) if path.read_bytes().lstrip()[:1] == b"[")
    rows = json.loads(path.read_bytes())
    rows = [row["fill"] | {"twapId": row["twapId"]} if "fill" in row else row for row in rows]
    found = read("".join(json.dumps([USERS[0], row]) + "\n" for row in rows).encode())
    page = decode_page(json.dumps(rows).encode())
    expected = sorted((line_columns(copy_line(USERS[0], fill)) | {"seq": None} for fill in page), key=str)
    assert sorted(found.columns, key=str) == expected
