"""What a fill is: decoding a page of them, telling two apart, and the columns they become.

Pure: no I/O, no clock. A page of JSON is decoded at once into typed `Fill`s. Only when that
fails (an unknown key, a number where text was expected, one broken row among good ones) is
the page read again row by row, so that strangeness costs time but never a row: an unknown key
goes to `Fill.extra`, a row that can't be understood becomes a `Rejected` with its raw text.

Prices and sizes stay the text that the exchange printed until Postgres makes them NUMERIC;
no float comes near them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

NUMERIC = r"[+-]?(?:[0-9]{1,200}(?:\.[0-9]{0,200})?|\.[0-9]{1,200})(?:[eE][+-]?[0-9]{1,3})?"
BIGINT_MAX = 2**63 - 1
LONGEST_AMOUNT = 200
LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: beyond it Python and many clients can't print a date."""

Amount = str
"""Text of the form `NUMERIC`: checked for many at once (`amounts_are_plain`), which is faster than by field."""
Identifier = Annotated[int, Meta(ge=0, le=BIGINT_MAX)]
Milliseconds = Annotated[int, Meta(ge=0, le=LATEST_MS)]
Beyond = str | int | None | UnsetType
"""Not a float, which would not be exact: a row that has one there is decoded by itself."""


class Stream(StrEnum):
    """The exchange's two lists of a user's fills."""

    FILLS = "fills"  # userFillsByTime
    SLICES = "slices"  # userTwapSliceFillsByTime: what TWAP orders of the user executed; not in the other


class Key(NamedTuple):
    """What makes a fill of one user itself: `tid` alone is shared by both sides of a trade (README)."""

    time: int
    coin: str
    oid: int
    tid: int
    side: str


class Fill(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False, kw_only=True):
    """One execution as the exchange tells it; `fill["startPosition"]` reads by the exchange's own names.

    `time` is ms since epoch; amounts are the exchange's text; `side` is "B" or "A"; `closed_pnl`
    is before fees; a negative `fee` is a rebate; `crossed` means taker. `tid` is negative where
    the exchange gave none (rows of 2023): see `derive_tid`. `seq` is the fill's place inside its
    millisecond as served, `extra` holds the keys that this version does not know.
    """

    coin: str
    px: Amount
    sz: Amount
    side: str
    time: Milliseconds
    start_position: Amount
    dir: str
    closed_pnl: Amount
    hash: str
    oid: Identifier
    crossed: bool
    fee: Amount
    tid: Identifier | None = None
    fee_token: str | None = None
    twap_id: Identifier | None = None
    cloid: str | None = None
    builder_fee: Amount | None = None
    liquidation: dict[str, str] | None = None
    # Known to come along now and then, but none of our columns: `settle_extra` moves them to `extra`.
    builder: Beyond = UNSET
    deployer_fee: Beyond = UNSET
    priority_gas: Beyond = UNSET
    fee_trial_escrow: Beyond = UNSET
    # Ours, not the exchange's: the names can't be met on the wire.
    seq: int = msgspec.field(default=0, name="#seq")
    extra: dict[str, Any] | None = msgspec.field(default=None, name="#extra")

    @property
    def key(self) -> Key:
        assert self.tid is not None  # noqa: S101  set by `decode_page` for every fill it returns
        return Key(self.time, self.coin, self.oid, self.tid, self.side)

    def keys(self) -> list[str]:
        """The exchange's names of what this fill has, so that `dict(fill)` is the row as served."""
        present = [name for name, field in _FIELD_OF_WIRE.items() if getattr(self, field) is not None]
        return [*present, *(self.extra or {})]

    def __getitem__(self, wire_name: str) -> Any:
        field = _FIELD_OF_WIRE.get(wire_name)
        if field is not None:
            return getattr(self, field)
        return (self.extra or {})[wire_name]


BEYOND = ("builder", "deployerFee", "priorityGas", "feeTrialEscrow")
"""The exchange's names of those that go to `extra`."""
_FIELD_OF_WIRE = {
    f.encode_name: f.name
    for f in msgspec.structs.fields(Fill)
    if not f.encode_name.startswith("#") and f.encode_name not in BEYOND
}
_AMOUNTS = ("px", "sz", "startPosition", "closedPnl", "fee", "builderFee")
_WHOLE_NUMBERS = ("time", "oid", "tid", "twapId")
_CONTENT = ("coin", "side", "px", "sz", "start_position", "dir", "closed_pnl", "hash", "oid", "crossed", "fee")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that can't be a fill: its raw JSON, why, and its time in ms where that could be read."""

    raw: str
    reason: str
    time: int | None = None


class Page(list[Fill]):
    """The fills of one answer in the order served, repeated rows dropped.

    `rows` is the number of rows served (what the exchange charges for), `rejected` those that
    are not among the fills, `odd_rows` how many had numbers as text or text as numbers, `body_bytes`
    the size of the JSON.
    """

    def __init__(
        self,
        fills: Iterable[Fill] = (),
        *,
        rejected: tuple[Rejected, ...] = (),
        rows: int = 0,
        odd_rows: int = 0,
        body_bytes: int = 0,
    ) -> None:
        super().__init__(fills)
        self.rejected = rejected
        self.rows = rows
        self.odd_rows = odd_rows
        self.body_bytes = body_bytes


class UndecodablePage(ValueError):
    """The body is not a JSON array of objects."""


class _Slice(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """A row of `Stream.SLICES`."""

    fill: Fill
    twap_id: Identifier | None


_decode_fills = msgspec.json.Decoder(list[Fill]).decode
_decode_slices = msgspec.json.Decoder(list[_Slice]).decode
_decode_fill = msgspec.json.Decoder(Fill).decode
_split_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_ONE_AMOUNT = re.compile(NUMERIC)
_ALL_AMOUNTS = re.compile(f"(?:{NUMERIC},)*+")
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_encode_json = msgspec.json.Encoder(decimal_format="number").encode


def decode_page(body: bytes, stream: Stream = Stream.FILLS) -> Page:
    """Decode an answer: an array of fills, or of `{fill, twapId}`, oldest first.

    Raises: UndecodablePage when the body as a whole is not such an array.
    """
    rejected: list[Rejected] = []
    odd_rows = 0
    rows = _decode_at_once(body, stream)
    if rows is None:
        rows, odd_rows = _decode_row_by_row(body, rejected, stream)
    served = len(rows) + len(rejected)
    fills = _settle(rows, rejected)
    return Page(fills, rejected=tuple(rejected), rows=served, odd_rows=odd_rows, body_bytes=len(body))


def _decode_at_once(body: bytes, stream: Stream) -> list[Fill] | None:
    if may_surprise(body):
        return None
    try:
        fills = _decode_fills(body) if stream is Stream.FILLS else [_unwrapped(one) for one in _decode_slices(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not amounts_are_plain(fills):
        return None
    for fill in fills:
        settle_extra(fill)
    return fills


def settle_extra(fill: Fill) -> None:
    """What a fill was decoded with beyond our columns goes to its `extra`."""
    builder, deployer_fee, gas, escrow = fill.builder, fill.deployer_fee, fill.priority_gas, fill.fee_trial_escrow
    if builder is UNSET and deployer_fee is UNSET and gas is UNSET and escrow is UNSET:
        return
    told = zip(BEYOND, (builder, deployer_fee, gas, escrow), strict=True)
    fill.extra = {name: value for name, value in told if value is not UNSET}
    fill.builder = fill.deployer_fee = fill.priority_gas = fill.fee_trial_escrow = UNSET


def amounts_are_plain(fills: Sequence[Fill]) -> bool:
    """Whether every amount of the fills is a number as Postgres reads it (and neither NaN nor blank)."""
    listed = [f"{fill.px},{fill.sz},{fill.start_position},{fill.closed_pnl},{fill.fee}," for fill in fills]
    built = [f"{fill.builder_fee}," for fill in fills if fill.builder_fee is not None]
    text = "".join(listed + built)
    # Counted, because a comma inside of one makes two amounts of it.
    return text.count(",") == 5 * len(listed) + len(built) and _ALL_AMOUNTS.fullmatch(text) is not None


def _unwrapped(one: _Slice) -> Fill:
    one.fill.twap_id = one.twap_id
    return one.fill


def may_surprise(body: bytes) -> bool:
    """An escape may hide a character that Postgres can't store; the others are names of our own."""
    return b"\\" in body or b'"#seq"' in body or b'"#extra"' in body


def _decode_row_by_row(body: bytes, rejected: list[Rejected], stream: Stream) -> tuple[list[Fill], int]:
    """The fills, and how many of them were written oddly."""
    fills: list[Fill] = []
    odd_rows = 0
    for raw, row in _split(body):
        try:
            fill = _decode_ordinary(raw) if stream is Stream.FILLS else None
            if fill is None:
                row = parse_json(raw) if row is None else row
                row = row if stream is Stream.FILLS else _flat_slice(row)
                fill = fill_from(row)
                odd_rows += _is_odd(row)
            fills.append(fill)
        except (ValueError, TypeError, RecursionError) as error:
            rejected.append(Rejected(raw, str(error) or type(error).__name__, readable_time(row)))
    return fills, odd_rows


def _is_odd(row: dict[str, Any]) -> bool:
    """Whether an amount came as a number, or a whole number as text."""
    numbers = (isinstance(row.get(name), (int, Decimal)) for name in _AMOUNTS)
    return any(numbers) or any(isinstance(row.get(name), str) for name in _WHOLE_NUMBERS)


def _split(body: bytes) -> list[tuple[str, Any]]:
    """The rows as JSON text, parsed too where the body is not strictly JSON. Raises: UndecodablePage."""
    try:
        return [(bytes(raw).decode(), None) for raw in _split_rows(body)]
    except (ValueError, RecursionError):  # NaN and its kind, or no array
        return [(json.dumps(row, default=str), row) for row in _parse_leniently(body)]


def _parse_leniently(body: bytes) -> list[Any]:
    try:
        parsed = parse_json(body)
    except (ValueError, RecursionError) as error:
        raise UndecodablePage(f"the body is not JSON ({type(error).__name__})") from error
    if not isinstance(parsed, list):
        raise UndecodablePage(f"the body is a JSON {type(parsed).__name__}, not an array")
    return parsed


def parse_json(text: str | bytes) -> Any:
    """Parsed, every number exact: an int, a Decimal, or its text. Raises: ValueError, RecursionError."""
    return json.loads(text, parse_float=_number, parse_int=_number, parse_constant=str)


def _flat_slice(row: Any) -> Any:
    """The row of a slice as that of a fill; keys beside it that we do not know are kept with those inside."""
    if not isinstance(row, dict) or not isinstance(row.get("fill"), dict):
        raise ValueError("the row is no object with a fill in it")
    beside = {name: value for name, value in row.items() if name != "fill"}
    return {**row["fill"], **beside}


def _decode_ordinary(raw: str) -> Fill | None:
    """The quick way, for an ordinary row among strange ones."""
    if may_surprise(raw.encode()):
        return None
    try:
        fill = _decode_fill(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    settle_extra(fill)
    return fill if amounts_are_plain((fill,)) else None


def readable_time(row: Any) -> int | None:
    """A row's time where it can be read, in ms."""
    time = row.get("time") if isinstance(row, dict) else None
    return time if type(time) is int and 0 <= time <= LATEST_MS else None


def _number(text: str) -> int | Decimal | str:
    """An exact number, or the text of one that no number type here takes: 5,000 digits, 1e999999999999."""
    try:
        return int(text) if text.removeprefix("-").isdigit() else Decimal(text)
    except (ValueError, ArithmeticError):
        return text


def fill_from(row: Any) -> Fill:
    """One parsed row to a fill, lenient about numbers as text and text as numbers.

    Raises: ValueError (or its subclass msgspec.ValidationError) with the reason.
    """
    if not isinstance(row, dict):
        raise ValueError(f"the row is a JSON {type(row).__name__}, not an object")
    known = {name: value for name, value in row.items() if name in _FIELD_OF_WIRE}
    for name in _AMOUNTS:
        if isinstance(known.get(name), (int, Decimal)) and not isinstance(known[name], bool):
            known[name] = str(known[name])
    liquidation = known.pop("liquidation", None)
    fill = msgspec.convert(known, Fill, strict=False)
    for name in _AMOUNTS:
        amount = fill[name]
        if amount is not None and (len(amount) > LONGEST_AMOUNT or not _ONE_AMOUNT.fullmatch(amount)):
            raise ValueError(f"`{name}` is no number: {amount[:40]!r}")
    fill.liquidation = liquidation
    fill.extra = {name: value for name, value in row.items() if name not in _FIELD_OF_WIRE} or None
    line = copy_line("", fill)
    if "\x00" in line or _NUL_IN_JSON.search(encode_json(fill.liquidation) + encode_json(fill.extra)):
        raise ValueError("the row holds a NUL character, which Postgres can't store")
    line.encode()  # a lone surrogate can't be stored either: UnicodeEncodeError
    return fill


def _settle(rows: list[Fill], rejected: list[Rejected]) -> list[Fill]:
    """Give every fill its place in its millisecond and a `tid`; drop rows served twice."""
    fills: list[Fill] = []
    seen: dict[Key, Fill] = {}
    twins: dict[int, int] = {}
    last_of_coin: dict[str, Fill] = {}
    time, seq = -1, 0
    for fill in rows:
        if fill.time != time:
            time, seq = fill.time, 0
        if fill.tid is None:
            content = derive_tid(fill)
            twin = twins.get(content, -1)
            if twin < 0 or _leads_to(last_of_coin[fill.coin], fill):
                twin += 1
                last_of_coin[fill.coin] = fill
            twins[content] = twin
            fill.tid = derive_tid(fill, twin)
        known = seen.setdefault(fill.key, fill)
        if known is not fill:
            if _same(known, fill):
                continue
            raw = _encode_json(dict(fill)).decode()
            rejected.append(Rejected(raw, "another row of the same page has its key and differs", fill.time))
            continue
        fill.seq = seq
        seq += 1
        fills.append(fill)
    return fills


def _leads_to(fill: Fill, successor: Fill) -> bool:
    """Whether the position after `fill` is the one before `successor`.

    Of two rows without `tid` that are equal to the last character, the second is a fill of its
    own only if the position moved away and came back in between (a self-trade of 2023).
    Otherwise the server repeated itself.
    """
    before, after = Decimal(fill.start_position), Decimal(successor.start_position)
    moved = Decimal(fill.sz) if fill.side == "B" else -Decimal(fill.sz)
    return abs(before + moved - after) < Decimal("1e-6") and abs(before - after) >= Decimal("1e-6")


def _same(one: Fill, other: Fill) -> bool:
    seq, other.seq = other.seq, one.seq
    try:
        return one == other
    finally:
        other.seq = seq


def derive_tid(fill: Fill, twin: int = 0) -> int:
    """A stable negative `tid` for a fill that the exchange gave none, from the row's content.

    `twin` numbers the rows of one millisecond that are equal to the last character.
    """
    content = [fill.time, twin, *(getattr(fill, name) for name in _CONTENT)]
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(digest, "big") >> 2)


COPY_COLUMNS = (
    "user_address", "time_ms", "coin", "side", "px", "sz", "start_position", "closed_pnl", "fee", "dir",
    "hash", "oid", "crossed", "fee_token", "tid", "twap_id", "cloid", "builder_fee", "liquidation", "seq", "extra",
    "block_time",
)  # fmt: skip
"""The columns of a `copy_line`, in order: those of the staging table."""

NULL = r"\N"
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_ESCAPED = re.compile(r"\\(.)")
_UNESCAPES = {"t": "\t", "n": "\n", "r": "\r"}


def copy_text(value: str | None) -> str:
    """A value in Postgres' COPY text format."""
    if value is None:
        return NULL
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value) if _SPECIAL.search(value) else value


def encode_json(value: dict[str, Any] | None) -> str:
    """JSON, numbers exact; '' for nothing."""
    return "" if value is None else _encode_json(value).decode()


def _json(value: dict[str, Any] | None) -> str:
    return NULL if value is None else copy_text(encode_json(value))


def copy_line(user: str, fill: Fill) -> str:
    """The fill as one line of Postgres' COPY text format, columns as in `COPY_COLUMNS`."""
    return _line(user, fill, str(fill.seq), NULL)


def archived_line(user: str, fill: Fill, block_time: str | None) -> str:
    """The same of an archived fill. Its `seq` is unknown: archives hold the slices of TWAP orders, too, so that
    a place inside the millisecond there is none among what the exchange serves."""
    return _line(user, fill, NULL, block_time or NULL)


def _line(user: str, fill: Fill, seq: str, block_time: str) -> str:
    coin, side, dir_, hash_, fee_token, cloid = fill.coin, fill.side, fill.dir, fill.hash, fill.fee_token, fill.cloid
    if _SPECIAL.search(f"{coin}{side}{dir_}{hash_}{fee_token}{cloid}"):  # one look at all of them: there hardly ever is
        coin, side, dir_, hash_ = copy_text(coin), copy_text(side), copy_text(dir_), copy_text(hash_)
        fee_token = None if fee_token is None else copy_text(fee_token)
        cloid = None if cloid is None else copy_text(cloid)
    twap_id, builder_fee = fill.twap_id, fill.builder_fee
    return (
        f"{user}\t{fill.time}\t{coin}\t{side}\t{fill.px}\t{fill.sz}\t{fill.start_position}\t{fill.closed_pnl}\t"
        f"{fill.fee}\t{dir_}\t{hash_}\t{fill.oid}\t{fill.crossed}\t{NULL if fee_token is None else fee_token}\t"
        f"{fill.tid}\t{NULL if twap_id is None else twap_id}\t{NULL if cloid is None else cloid}\t"
        f"{NULL if builder_fee is None else builder_fee}\t{_json(fill.liquidation)}\t{seq}\t{_json(fill.extra)}\t"
        f"{block_time}\n"
    )


def line_columns(line: str) -> dict[str, str | None]:
    """What a line of the COPY text format says, by column."""
    values = line.removesuffix("\n").split("\t")
    return dict(zip(COPY_COLUMNS, map(uncopied, values), strict=True))


def uncopied(text: str) -> str | None:
    """The value that `copy_text` made this of."""
    return None if text == NULL else _ESCAPED.sub(lambda match: _UNESCAPES.get(match[1], match[1]), text)


def rejected_line(line: str, reason: str) -> tuple[str, Rejected]:
    """The user of a line that the database refuses, and its row, as text the same as that of its fill."""
    columns = line_columns(line)
    told = ((wire, column, columns[column]) for wire, column in WIRE_COLUMNS.items())
    row = {wire: _wire_value(column, value) for wire, column, value in told if value is not None}
    if columns["extra"] is not None:
        row |= parse_json(columns["extra"])
    if columns["block_time"] is not None:
        row["blockTime"] = columns["block_time"]
    return columns["user_address"] or "", Rejected(json.dumps(row, default=str), reason, row.get("time"))


def _wire_value(column: str, text: str) -> Any:
    if column in ("time_ms", "oid", "tid", "twap_id"):
        return int(text)
    if column == "liquidation":
        return parse_json(text)
    return text == "True" if column == "crossed" else text


WIRE_COLUMNS = {wire: "time_ms" if field == "time" else field for wire, field in _FIELD_OF_WIRE.items()}
