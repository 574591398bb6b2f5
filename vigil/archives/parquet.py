"""Parquet to batches: the API's camelCase names, or the columns of `fills` as `export` writes them.

By columns, not by rows: pyarrow makes text of each, checks it, and the lines are zipped together. Rows that
do not pass, and those without `tid`, are looked at one by one. No number is rounded: decimals and
text stay what they are, and a float column gives the shortest text that means the same float.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

from vigil.archives.batch import BEGINNING, DIGEST_BYTES, Batch, BatchSize, Place, Scope, batch_of
from vigil.archives.documents import as_document, check_storable, document_of
from vigil.archives.lines import is_address, moment_of, not_fills
from vigil.archives.trouble import NotFills
from vigil.copy_text import COPY_COLUMNS, NULL, archived_line, copy_text, instant, uncopied
from vigil.fills import LATEST_MS, NUMERIC, WIRE_COLUMNS, Rejected, derive_tid, encode_json, fill_from

_NAMES = {name: name for name in COPY_COLUMNS} | WIRE_COLUMNS | {
    "time_ms": "time", "user": "user_address", "address": "user_address", "userAddress": "user_address",
    "blockTime": "block_time",
}  # fmt: skip
_NEEDED = ("user_address", "time", "coin", "side", "px", "sz", "oid")
_WITHOUT_MEANING = {"block_number", "blockNumber", "local_time", "localTime", "__index_level_0__"}
_AMOUNTS = ("px", "sz", "start_position", "closed_pnl", "fee", "builder_fee")
_WHOLE_NUMBERS = ("oid", "tid", "twap_id", "seq")
_JSON = ("liquidation", "extra")
_EXACT_FLOATS = 2.0**53
"""Up to here a float holds every whole number."""


def _library() -> tuple[Any, Any, Any]:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise NotFills(
            "Parquet needs the library pyarrow, which is not installed.",
            hint="pip install 'vigil-backfill[parquet]'",
        ) from None
    return pyarrow, pyarrow.compute, pyarrow.parquet


def parquet_batches(file: BinaryIO, points: Sequence[Place], scope: Scope, size: BatchSize) -> Iterator[Batch]:
    """The batches of a Parquet file behind the furthest of `points` that is of this very file. Raises: NotFills."""
    pa, _, parquet = _library()
    with file:
        digest, raw_bytes = _digest(file)
        try:
            reader = parquet.ParquetFile(file)
            columns = _columns(reader.schema_arrow.names)
            found = max((point for point in points if point.digest == digest), default=BEGINNING)
            yield Batch(found)
            done, total, error = found.bytes_done, reader.metadata.num_rows, None
            for table in _tables(reader, done, size.rows):
                batch = _Columns(table, columns, scope).batch()
                done += table.num_rows
                batch.place = Place(done, done, digest)
                batch.raw_bytes = raw_bytes * done // max(total, 1)
                yield batch
        except (pa.ArrowException, UnicodeDecodeError, OSError) as failure:
            why = str(failure).splitlines()[0].rstrip(".")
            if "found" not in locals():
                raise NotFills(f"It is no Parquet file that can be read: {why}.") from failure
            error = f"it can't be read beyond row {done:,}: {why}"
        yield Batch(Place(done, done, digest), last=True, error=error, raw_bytes=raw_bytes)


def _digest(file: BinaryIO) -> tuple[bytes, int]:
    digest, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    file.seek(0)
    return digest.digest(), size


def _columns(names: Sequence[str]) -> dict[str, str]:
    """Our column of each of theirs; what is not in it goes to `extra`. Raises: NotFills."""
    columns: dict[str, str] = {}
    for name in names:
        ours = _NAMES.get(name)
        if ours is not None and ours not in columns.values():
            columns[name] = ours
    if missing := [name for name in _NEEDED if name not in columns.values()]:
        if len(missing) > len(_NEEDED) // 2:
            raise not_fills()
        raise NotFills(f"It is Parquet, but without a column for {', '.join(missing)}.")
    return columns


def _tables(reader: Any, skip: int, rows: int) -> Iterator[Any]:
    """Record batches behind the first `skip` rows; row groups that lie before are not read."""
    first = 0
    for first in range(reader.num_row_groups + 1):
        if first == reader.num_row_groups or skip < reader.metadata.row_group(first).num_rows:
            break
        skip -= reader.metadata.row_group(first).num_rows
    for table in reader.iter_batches(batch_size=rows, row_groups=list(range(first, reader.num_row_groups))):
        if skip >= table.num_rows:
            skip -= table.num_rows
            continue
        yield table.slice(skip)
        skip = 0


class _Columns:
    """One record batch as columns of COPY text, and the rows that can't be a line as they are."""

    def __init__(self, table: Any, columns: dict[str, str], scope: Scope) -> None:
        self._pa, self._pc, _ = _library()
        self._table, self._scope = table, scope
        self._theirs = {ours: theirs for theirs, ours in columns.items()}
        self._unknown = [n for n in table.schema.names if n not in columns and n not in _WITHOUT_MEANING]
        self._bad: dict[int, str] = {}
        self._beyond: dict[int, dict[str, Any]] = {}  # by row, what goes to `extra`
        self._ms: list[int | None] = []
        self._text = {"block_time": self._column("block_time")}  # first: one that can't be read is in `extra`
        self._text |= {name: self._column(name) for name in COPY_COLUMNS if name != "block_time"}
        tids = self._text["tid"]
        self._nameless = {at for at in range(table.num_rows) if tids[at] == NULL} - self._bad.keys()

    def batch(self) -> Batch:
        """The rows; its place is still to be told."""
        text, scope, everything = self._text, self._scope, self._scope == Scope()
        users, times = text["user_address"], self._ms
        special = self._bad.keys() | self._nameless
        kept: list[str] = []
        rejected: list[tuple[str, Rejected]] = []
        lines = map("\t".join, zip(*(text[name] for name in COPY_COLUMNS), strict=True))
        for at, line in enumerate(lines):
            told, ms = self._one(at) if at in special else line + "\n", times[at]
            if isinstance(told, Rejected):
                rejected.append((users[at] if is_address(users[at]) else "", told))
            elif everything or (ms is not None and scope.wants(users[at], ms)):
                kept.append(told)
        return batch_of(kept, BEGINNING, rejected, self._table.num_rows - len(kept) - len(rejected))

    def _one(self, at: int) -> str | Rejected:
        """A row by itself: without `tid`, or one that can't be a fill."""
        try:
            if at in self._bad:
                raise ValueError(self._bad[at])
            told = {wire: self._text[column][at] for wire, column in WIRE_COLUMNS.items()}
            row: dict[str, Any] = {wire: uncopied(value) for wire, value in told.items()} | {"time": self._ms[at]}
            for wire in WIRE_COLUMNS.keys() & row.keys():
                if row[wire] is not None and self._is_number(WIRE_COLUMNS[wire]):
                    row[wire] = _as_printed(row[wire])
            for name in _JSON[:1]:
                row[name] = json.loads(row[name]) if row[name] is not None else None
            fill = fill_from({name: value for name, value in row.items() if value is not None})
        except ValueError as error:
            (row,) = self._table.slice(at, 1).to_pylist()
            return Rejected(json.dumps(row, default=str), str(error), self._ms[at])
        fill.tid = derive_tid(fill)
        columns = archived_line(self._text["user_address"][at], fill, None).split("\t")
        for name in ("seq", "extra", "block_time"):
            columns[COPY_COLUMNS.index(name)] = self._text[name][at]
        return "\t".join(columns) + "\n"

    # -- columns -----------------------------------------------------------------------------

    def _column(self, name: str) -> list[str]:
        theirs = self._theirs.get(name)
        if theirs is None and name != "extra":
            return [NULL] * self._table.num_rows
        column = None if theirs is None else self._table.column(theirs)
        if name == "extra":
            return self._extras(column)
        if name in ("time", "block_time"):
            values = self._times(column) if name == "time" else self._moments(column)
        elif name in _JSON:
            values = self._documents(name, column)
        else:
            values = self._texts(name, column)
        if name in _NEEDED:
            for at, value in enumerate(values):
                if value == NULL:
                    self._bad.setdefault(at, f"it has no {name}")
        return values

    def _texts(self, name: str, column: Any) -> list[str]:
        if name in _WHOLE_NUMBERS and self._pa.types.is_floating(column.type):
            column = self._whole(name, column)
        text = self._as_text(column)
        if self._is_number(name):
            text = self._pc.replace_substring_regex(text, r"^(-?[0-9]+\.[0-9]*?)0+$", r"\1")
            text = self._pc.replace_substring_regex(text, r"\.$", "")
            text = self._pc.replace_substring_regex(text, "^0E[-+]?[0-9]+$", "0")
        pattern = _PATTERNS.get(name)
        if pattern is not None:
            self._flag(name, self._pc.match_substring_regex(text, pattern))
        values: list[str] = self._pc.fill_null(text, NULL).to_pylist()
        if name in _AMOUNTS and self._pc.any(self._pc.match_substring(text, "E-")).as_py():  # below a millionth
            values = [f"{Decimal(value).normalize():f}" if "E-" in value else value for value in values]
        if name == "user_address":
            return [value if value == NULL else value.lower() for value in values]
        if pattern is None and self._pc.any(self._pc.match_substring_regex(text, r"[\\\\\t\n\r\x00]")).as_py():
            for at, value in enumerate(text.to_pylist()):
                values[at] = copy_text(value)
                if value is not None and "\x00" in value:
                    self._bad.setdefault(at, f"{name} holds a NUL character, which Postgres can't store")
        return values

    def _as_text(self, column: Any) -> Any:
        if self._pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return self._pc.cast(column, self._pa.string())

    def _is_number(self, name: str) -> bool:
        """Whether it is a column of amounts that are no text."""
        types = self._pa.types
        if name not in _AMOUNTS or name not in self._theirs:
            return False
        kind = self._table.column(self._theirs[name]).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

    def _whole(self, name: str, column: Any) -> Any:
        """Whole numbers that came as floats, which is what a data frame makes of a column with gaps: NaN is none."""
        pa, pc = self._pa, self._pc
        column = pc.cast(column, pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
        exact = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), _EXACT_FLOATS))
        self._flag(name, exact)
        return pc.cast(pc.if_else(exact, column, pa.scalar(None, pa.float64())), pa.int64())

    def _flag(self, name: str, passes: Any) -> None:
        if self._pc.all(passes).as_py() is False:
            for at, passed in enumerate(passes.to_pylist()):
                if passed is False:
                    self._bad.setdefault(at, f"{name} is not what it must be")

    def _times(self, column: Any) -> list[str]:
        """Also as ms since 1970, to `_ms`. Raises: NotFills for a type that is no time."""
        types = self._pa.types
        if types.is_timestamp(column.type):
            whole = self._pc.cast(column, self._pa.int64())
            unit = {"s": 1, "ms": 1, "us": 1000, "ns": 1_000_000}[column.type.unit]
            milliseconds = self._pc.divide(whole, unit)
            self._flag("time", self._pc.equal(self._pc.multiply(milliseconds, unit), whole))
            if column.type.unit == "s":
                milliseconds = self._pc.multiply(milliseconds, 1000)
        elif types.is_integer(column.type):
            milliseconds = column
        else:
            raise NotFills(f"It is Parquet, but its time is {column.type}, neither a timestamp nor milliseconds.")
        within = self._pc.and_(self._pc.greater_equal(milliseconds, 0), self._pc.less_equal(milliseconds, LATEST_MS))
        self._flag("time", within)
        self._ms = milliseconds.to_pylist()
        return [NULL if ms is None or not 0 <= ms <= LATEST_MS else instant(ms) for ms in self._ms]

    def _moments(self, column: Any) -> list[str]:
        """`block_time`, cut after the microsecond."""
        if self._pa.types.is_timestamp(column.type):
            moments = self._pc.cast(column, self._pa.timestamp("us", "UTC"), safe=False)
            return self._pc.fill_null(self._pc.cast(moments, self._pa.string()), NULL).to_pylist()  # type: ignore[no-any-return]
        moments = []
        for at, value in enumerate(column.to_pylist()):
            moment = moment_of(value)
            if moment is None and value is not None:
                self._keep(at, "block_time", value)
            moments.append(moment or NULL)
        return moments

    def _documents(self, name: str, column: Any) -> list[str]:
        texts = []
        for at, value in enumerate(column.to_pylist()):
            text = value if isinstance(value, str) or value is None else encode_json(as_document(value))
            try:
                document = document_of(text) if text else None
            except (ValueError, RecursionError):
                self._bad.setdefault(at, f"{name} is no JSON that Postgres can store: {text!r:.40}")
                text = ""
            else:
                if name == "extra" and text and not isinstance(document, dict):
                    text = ""
                    if document is not None:
                        self._keep(at, name, document)
            texts.append(copy_text(text) if text else NULL)
        return texts

    def _extras(self, column: Any) -> list[str]:
        """`extra`, and in it what we have no column for."""
        texts = [NULL] * self._table.num_rows if column is None else self._documents("extra", column)
        for name in self._unknown:
            for at, value in enumerate(self._table.column(name).to_pylist()):
                if value is not None:
                    self._keep(at, name, value)
        for at, beyond in self._beyond.items():
            known = {} if texts[at] == NULL else json.loads(uncopied(texts[at]) or "{}", parse_float=Decimal)
            texts[at] = copy_text(encode_json({**known, **beyond}))
        return texts

    def _keep(self, at: int, name: str, value: Any) -> None:
        """Have it in the row's `extra`."""
        try:
            document = as_document(value)
            check_storable(document)
        except (ValueError, RecursionError) as error:
            self._bad.setdefault(at, f"{name} {error}")
        else:
            self._beyond.setdefault(at, {})[name] = document


def _as_printed(number: str) -> str:
    """A number as the exchange prints it, since the `tid` of a row that has none is derived from its text."""
    plain = f"{Decimal(number):f}"
    return plain if "." in plain else f"{plain}.0"


_PATTERNS = {
    **dict.fromkeys(_AMOUNTS, f"^(?:{NUMERIC})$"),
    **dict.fromkeys(("oid", "twap_id", "seq"), "^[0-9]{1,19}$"),
    "tid": "^-?[0-9]{1,19}$",
    "crossed": "^([Tt]rue|[Ff]alse)$",
    "user_address": "^0[xX][0-9a-fA-F]{40}$",
}
