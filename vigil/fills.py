"""What a fill is: decoding a page of them, and telling two apart.

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
from operator import attrgetter
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
WIRE_COLUMNS = _FIELD_OF_WIRE
"""The column of `fills` for each of the exchange's names."""
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
_PLAIN_AMOUNTS = re.compile(r"(?:-?+[0-9]{1,60}+(?:\.[0-9]{1,60}+)?+,)*+")
"""As they nearly always are, and three times as fast."""
_ALL_AMOUNTS = re.compile(f"(?:{NUMERIC},)*+")
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_encode = msgspec.json.Encoder(decimal_format="number").encode


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
    if (
        fill.builder is UNSET
        and fill.deployer_fee is UNSET
        and fill.priority_gas is UNSET
        and fill.fee_trial_escrow is UNSET
    ):
        return
    told = zip(BEYOND, (fill.builder, fill.deployer_fee, fill.priority_gas, fill.fee_trial_escrow), strict=True)
    fill.extra = {name: value for name, value in told if value is not UNSET}
    fill.builder = fill.deployer_fee = fill.priority_gas = fill.fee_trial_escrow = UNSET


def amounts_are_plain(fills: Sequence[Fill]) -> bool:
    """Whether every amount of the fills is a number as Postgres reads it (and neither NaN nor blank)."""
    listed = [f"{fill.px},{fill.sz},{fill.start_position},{fill.closed_pnl},{fill.fee}," for fill in fills]
    built = [f"{fill.builder_fee}," for fill in fills if fill.builder_fee is not None]
    text = "".join(listed + built)
    # Counted, because a comma inside of one makes two amounts of it.
    counted = text.count(",") == 5 * len(listed) + len(built)
    return counted and (_PLAIN_AMOUNTS.fullmatch(text) or _ALL_AMOUNTS.fullmatch(text)) is not None


def _unwrapped(one: _Slice) -> Fill:
    one.fill.twap_id = one.twap_id
    return one.fill


def may_surprise(body: bytes) -> bool:
    """An escape may hide a character that Postgres can't store; the others are names of our own."""
    return b"\\" in body or (b"#" in body and (b"#seq" in body or b"#extra" in body))


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


def encode_json(value: Any) -> str:
    """JSON, numbers exact. Raises: UnicodeEncodeError for a lone surrogate."""
    return _encode(value).decode()


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
    # Encoding it also refuses a lone surrogate, which can't be stored either: UnicodeEncodeError.
    if _NUL_IN_JSON.search(encode_json(fill)):
        raise ValueError("the row holds a NUL character, which Postgres can't store")
    return fill


def _settle(rows: list[Fill], rejected: list[Rejected]) -> list[Fill]:
    """Give every fill its place in its millisecond and a `tid`; drop rows served twice."""
    fills = rows if _are_distinct(rows) else _settle_one_by_one(rows, rejected)
    time, seq = -1, 0
    for fill in fills:
        if fill.time != time:
            time, seq = fill.time, 0
        fill.seq = seq
        seq += 1
    return fills


_key_of = attrgetter(*Key._fields)


def _are_distinct(fills: list[Fill]) -> bool:
    """Whether all have a `tid`, and no two the same key."""
    tids = {fill.tid for fill in fills}
    return None not in tids and (len(tids) == len(fills) or len(set(map(_key_of, fills))) == len(fills))


def _settle_one_by_one(rows: list[Fill], rejected: list[Rejected]) -> list[Fill]:
    fills: list[Fill] = []
    seen: dict[Key, Fill] = {}
    twins: dict[int, int] = {}
    last_of_coin: dict[str, Fill] = {}
    for fill in rows:
        if fill.tid is None:
            content = derive_tid(fill)
            twin = twins.get(content, -1)
            if twin < 0 or _leads_to(last_of_coin[fill.coin], fill):
                twin += 1
                last_of_coin[fill.coin] = fill
            twins[content] = twin
            fill.tid = derive_tid(fill, twin) if twin else content
        known = seen.setdefault(fill.key, fill)
        if known is fill:
            fills.append(fill)
        elif known != fill:
            raw = encode_json(dict(fill))
            rejected.append(Rejected(raw, "another row of the same page has its key and differs", fill.time))
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


def derive_tid(fill: Fill, twin: int = 0) -> int:
    """A stable negative `tid` for a fill that the exchange gave none, from the row's content.

    `twin` numbers the rows of one millisecond that are equal to the last character.
    """
    content = [fill.time, twin, *(getattr(fill, name) for name in _CONTENT)]
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(digest, "big") >> 2)
