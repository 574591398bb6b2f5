"""Rows that SQL alone can't judge, one by one: from the JSON of a row to our values, or the reason why not. Pure.

A row without a `tid` gets the one that `fills` derives for the same row from the exchange, so that it is
known again. That needs the row as the exchange printed it: amounts are brought back into its form
(no exponent, no needless zeros, at least one decimal; true of every recorded row). Rows of one user and
millisecond are decoded together, because equal ones among them are told apart by their order.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any

import msgspec

from vigil.adopt.rules import SIDES, Unit
from vigil.adopt.shape import REQUIRED, Column
from vigil.fills import BIGINT_MAX, LATEST_MS, NUMERIC, Fill, decode_page
from vigil.store import FILLS_COLUMNS

_encode = msgspec.json.Encoder(decimal_format="number").encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_FRACTION = re.compile(r"[.](\d+)")
_WIRE = {
    "coin": "coin", "side": "side", "px": "px", "sz": "sz", "start_position": "startPosition", "dir": "dir",
    "closed_pnl": "closedPnl", "hash": "hash", "oid": "oid", "crossed": "crossed", "fee": "fee",
}  # fmt: skip
"""What a `tid` is derived from, but for the time."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """How to read their rows: the mapping, their columns by name, the units of times in numbers."""

    mapping: Mapping[str, str]
    columns: Mapping[str, Column]
    units: Mapping[str, Unit]
    keep_unknown: bool
    """Whether columns that are none of ours go into `extra` (a copy), or stay columns (in place)."""

    @property
    def unknown(self) -> list[str]:
        """Columns that tell something of the fill and are none of ours: no surrogate keys, no time of insertion."""
        known = set(self.mapping.values())
        return [name for name, one in self.columns.items() if name not in known and not one.unique_default]


@dataclass(slots=True)
class Judged:
    """What became of a row: `values` by column, or `reason`, or neither where the table said the same row twice."""

    raw: str
    values: dict[str, Any] | None = None
    reason: str | None = None
    user: str = ""
    time_ms: int | None = None


def judge(rows: Iterable[str], theirs: Theirs) -> list[Judged]:
    """Judge rows, given as JSON in the order of their place; all of one user and time must be among them."""
    judged = [_convert(raw, theirs) for raw in rows]
    untold = [one for one in judged if one.values is not None and one.values["tid"] is None]
    untold.sort(key=lambda one: (one.user, one.time_ms or 0))  # stable: rows of one millisecond keep their order
    for _, group in groupby(untold, key=lambda one: one.user):
        _tell(list(group))
    return judged


def _convert(raw: str, theirs: Theirs) -> Judged:
    row, one = json.loads(raw, parse_float=Decimal), Judged(raw)
    values: dict[str, Any] = {}
    for ours, name in theirs.mapping.items():
        given = row.get(name)
        try:
            values[ours] = None if given is None else _value(ours, given, theirs.columns[name], theirs.units.get(ours))
        except (ValueError, ArithmeticError, OverflowError):
            one.reason = one.reason or f"its {name} {str(given)[:80]!r} can't be {ours}"
            values[ours] = None
    one.user = values.get("user_address") or str(row.get(theirs.mapping["user_address"]) or "")[:200]
    if values.get("time") is not None:
        one.time_ms = _milliseconds(values["time"])
    lacking = [ours for ours in REQUIRED if values.get(ours) is None]
    if lacking and one.reason is None:
        one.reason = f"it has no {', '.join(lacking)}"
    if one.reason is not None:
        return one
    values.setdefault("tid", None)
    if theirs.keep_unknown:
        values["extra"] = _extra(row, theirs, values.get("extra"))
    else:
        known = set(theirs.mapping.values())
        values = {**{name: value for name, value in row.items() if name not in known}, **values}
    one.values = values
    return one


def _extra(row: dict[str, Any], theirs: Theirs, extra: Any) -> Any:
    unknown = {name: row[name] for name in theirs.unknown if row.get(name) is not None}
    return {**unknown, **(extra or {})} or None


def _value(ours: str, given: Any, theirs: Column, unit: Unit | None) -> Any:
    match FILLS_COLUMNS[ours]:
        case "text":
            return _text(ours, str(given), theirs)
        case "numeric":
            return _amount(given, theirs)
        case "bigint" | "integer":
            return _whole(given)
        case "timestamp with time zone":
            return _instant(given, theirs, unit, exact=ours == "time")
        case "boolean":
            return _truth(given)
        case _:
            return _json(given)


def _text(ours: str, text: str, theirs: Column) -> str:
    if theirs.type == "bytea":
        text = "0x" + text.removeprefix("\\x")
    if theirs.type == "character":
        text = text.rstrip(" ")
    if ours == "user_address":
        text = text.lower()
        if not _ADDRESS.fullmatch(text):
            raise ValueError
    if ours == "side":
        if text.lower() not in SIDES:
            raise ValueError
        text = SIDES[text.lower()]
    return text


def _amount(given: Any, theirs: Column) -> str:
    text = str(given)
    if isinstance(given, bool) or not re.match(NUMERIC, text) or len(text) > 200:
        raise ValueError
    return text if theirs.category == "S" else canonical(text)


def canonical(text: str) -> str:
    """A number as the exchange prints it."""
    whole, _, part = format(Decimal(text), "f").partition(".")
    sign = "-" if whole.startswith("-") and Decimal(text) != 0 else ""
    digits = whole.lstrip("+-").lstrip("0") or "0"
    return f"{sign}{digits}.{part.rstrip('0') or '0'}"


def _whole(given: Any) -> int:
    number = Decimal(str(given))
    if isinstance(given, bool) or number != number.to_integral_value() or abs(number) > BIGINT_MAX:
        raise ValueError
    return int(number)


def _instant(given: Any, theirs: Column, unit: Unit | None, *, exact: bool) -> str:
    if unit is not None:
        number = Decimal(str(given))
        first, last = unit.span()
        micros = number * 1_000_000 / unit.per_second
        if not first <= number < last or (exact and micros % 1000):
            raise ValueError
        return (_EPOCH + timedelta(microseconds=int(micros))).isoformat()
    text = str(given)
    fraction = _FRACTION.search(text)
    if exact and fraction is not None and fraction[1][3:].strip("0"):
        raise ValueError
    instant = datetime.fromisoformat(_FRACTION.sub(lambda match: f".{match[1][:6]:<06}", text))
    instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    if not 0 <= _micros(instant) <= LATEST_MS * 1000 + 999:
        raise ValueError
    return instant.isoformat()


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)


def _milliseconds(iso: str) -> int:
    return _micros(datetime.fromisoformat(iso)) // 1000


def _truth(given: Any) -> bool:
    word = str(given).lower()
    if word not in ("true", "false", "t", "f", "1", "0"):
        raise ValueError
    return word in ("true", "t", "1")


def _json(given: Any) -> Any:
    value = json.loads(given, parse_float=Decimal) if isinstance(given, str) and given.strip() else given
    if value in ("", {}, None):
        return None
    if not isinstance(value, dict):
        raise ValueError
    return value


def _tell(rows: Sequence[Judged]) -> None:
    """Give each of one user's rows the `tid` that it would have from the exchange; mark those said twice."""
    page = decode_page(json.dumps([_wire(one) for one in rows]).encode())
    waiting: dict[tuple[Any, ...], list[Judged]] = defaultdict(list)
    for one in rows:
        waiting[_content(one)].append(one)
    for fill in page:
        found = waiting[_content_of(fill)]
        one = found.pop(0)
        assert one.values is not None  # noqa: S101  only rows with values are here
        one.values["tid"] = fill.tid
    refused = [(json.loads(rejected.raw), rejected.reason) for rejected in page.rejected]
    for one in (one for left in waiting.values() for one in left):
        wire = _wire(one)
        why = next((reason for row, reason in refused if row == wire), None)
        one.values = None  # refused, or else equal to one that has been found
        one.reason = None if why is None else f"it has no tid, and none can be derived: {why}"


def _wire(one: Judged) -> dict[str, Any]:
    values = one.values or {}
    wire = {name: values[ours] for ours, name in _WIRE.items() if values.get(ours) is not None}
    return {**wire, "time": one.time_ms}


def _content(one: Judged) -> tuple[Any, ...]:
    values = one.values or {}
    return (one.time_ms, *(values.get(ours) for ours in _WIRE))


def _content_of(fill: Fill) -> tuple[Any, ...]:
    return (fill.time, *(getattr(fill, ours) for ours in _WIRE))


def to_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows for Postgres, every digit kept."""
    return _encode(list(rows)).decode()
