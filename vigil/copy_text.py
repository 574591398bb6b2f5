"""Fills as lines of Postgres' COPY text format, and back.

Many ordinary fills are written at once: msgspec makes JSON arrays of them in C, and an array of plain values is a
line but for its punctuation. Those with an object among their values, and all where a text could be mistaken for
punctuation, are written one by one. Pure.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, NamedTuple

import msgspec

from vigil.fills import WIRE_COLUMNS, Fill, Rejected, encode_json, parse_json

COPY_COLUMNS = (
    "user_address", "time", "coin", "side", "px", "sz", "start_position", "closed_pnl", "fee", "dir", "hash", "oid",
    "crossed", "fee_token", "tid", "twap_id", "cloid", "builder_fee", "seq", "liquidation", "extra", "block_time",
)  # fmt: skip
"""The columns of a line, in order: those of `fills`, and of the staging table."""

NULL = r"\N"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_ESCAPED = re.compile(r"\\(.)")
_UNESCAPES = {"t": "\t", "n": "\n", "r": "\r"}

_encode_arrays = msgspec.json.Encoder().encode_lines
_PUNCTUATION = bytes.maketrans(b",", b"\t")
_COMMAS = len(COPY_COLUMNS) - 5  # without the user, and the three that are NULL in each


def copy_lines(user: str, fills: Sequence[Fill]) -> bytes:
    """The fills of one user, a line each in no certain order, columns as in `COPY_COLUMNS`."""
    plain = [fill for fill in fills if fill.liquidation is None and fill.extra is None]
    text = _copy_at_once(user, plain)
    rest = fills if text is None else [fill for fill in fills if not (fill.liquidation is None and fill.extra is None)]
    return (text or b"") + "".join([copy_line(user, fill) for fill in rest]).encode()


def _copy_at_once(user: str, fills: Sequence[Fill]) -> bytes | None:
    """The same of fills without objects in them; None where a text needs a closer look."""
    text = _encode_arrays(
        [
            (
                instant(fill.time), fill.coin, fill.side, fill.px, fill.sz, fill.start_position, fill.closed_pnl,
                fill.fee, fill.dir, fill.hash, fill.oid, fill.crossed, fill.fee_token, fill.tid, fill.twap_id,
                fill.cloid, fill.builder_fee, fill.seq,
            )
            for fill in fills
        ]
    )  # fmt: skip
    # A comma inside of a text is one too many; a quote or a control character in it is escaped.
    if b"\\" in text or text.count(b",") != len(fills) * _COMMAS:
        return None
    begin, end = f"{user},".encode(), rb",\N,\N,\N" + b"\n"
    lines = text[1:-2].replace(b",null", rb",\N").replace(b"]\n[", end + begin)
    return b"".join((begin, lines, end)).translate(_PUNCTUATION, b'"') if lines else b""


class Stretch(NamedTuple):
    """Rows of one user, and the span they lie in: the times of the first and the last, as text."""

    user: str
    first: str
    last: str
    rows: int


def stretches_of(lines: Sequence[str]) -> list[Stretch]:
    """What sorted lines hold, by user."""
    stretches = []
    begin = 0
    while begin < len(lines):
        user, first, _ = lines[begin].split("\t", 2)
        end = bisect_left(lines, f"{user}\n", begin)  # sorts behind the tab that ends the address in its lines
        stretches.append(Stretch(user, first, lines[end - 1].split("\t", 2)[1], end - begin))
        begin = end
    return stretches


def copy_line(user: str, fill: Fill) -> str:
    """The fill as one line."""
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
        f"{user}\t{instant(fill.time)}\t{coin}\t{side}\t{fill.px}\t{fill.sz}\t{fill.start_position}\t"
        f"{fill.closed_pnl}\t{fill.fee}\t{dir_}\t{hash_}\t{fill.oid}\t{'true' if fill.crossed else 'false'}\t"
        f"{NULL if fee_token is None else fee_token}\t"
        f"{fill.tid}\t{NULL if twap_id is None else twap_id}\t{NULL if cloid is None else cloid}\t"
        f"{NULL if builder_fee is None else builder_fee}\t{seq}\t{_json(fill.liquidation)}\t{_json(fill.extra)}\t"
        f"{block_time}\n"
    )


_MINUTES = tuple(f"{hour:02}:{minute:02}:" for hour in range(24) for minute in range(60))
_SECONDS = tuple(f"{second:02}." for second in range(60))
_MILLISECONDS = tuple(f"{ms:03}Z" for ms in range(1000))


def instant(ms: int) -> str:
    """A time in ms since epoch, as Postgres reads it. By tables: a datetime would cost five times that, at each row."""
    day, minute, second = ms // 86_400_000, ms % 86_400_000 // 60_000, ms % 60_000 // 1000
    return f"{_day(day)}{_MINUTES[minute]}{_SECONDS[second]}{_MILLISECONDS[ms % 1000]}"


@lru_cache(maxsize=4096)
def _day(days: int) -> str:
    return strftime("%Y-%m-%dT", gmtime(86_400 * days))


def ms_of(instant: str) -> int:
    """The other way. Raises: ValueError."""
    return (datetime.fromisoformat(instant) - _EPOCH) // timedelta(milliseconds=1)


def copy_text(value: str | None) -> str:
    """A value in Postgres' COPY text format."""
    if value is None:
        return NULL
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value) if _SPECIAL.search(value) else value


def _json(value: dict[str, Any] | None) -> str:
    return NULL if value is None else copy_text(encode_json(value))


def line_columns(line: str) -> dict[str, str | None]:
    """What a line says, by column."""
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
    if column == "time":
        return ms_of(text)
    if column in ("oid", "tid", "twap_id"):
        return int(text)
    if column == "liquidation":
        return parse_json(text)
    return text in ("True", "true") if column == "crossed" else text
