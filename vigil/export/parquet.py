"""Rows as Parquet: typed, checked, in row groups. The one room that knows pyarrow, and it is loaded only when wanted.

A number is decimal128(38, 18) or the export stops. pyarrow alone is no judge of that: turning text into a decimal it
multiplies by 10^18 without looking, so that of numbers with 21 digits or more before the point some become other
numbers. So the text is measured first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from vigil.errors import UsageError, VigilError
from vigil.export.lines import path_of
from vigil.export.output import Output
from vigil.export.place import Place
from vigil.export.wanted import AMOUNTS, COLUMNS, Numbers, Partition, Wanted, Written

PRECISION, SCALE = 38, 18
WHOLE_DIGITS = PRECISION - SCALE

ROW_GROUP_ROWS = 100_000
"""Some 5 MB packed: what a reader takes at once, and may skip."""
WAITING_ROWS = 600_000
"""Rows of all open months together that wait for their row group: some 200 MB."""
REPEATING = ["user_address", "coin", "side", "dir", "fee_token", "liquidation", "extra", "twap_id", "seq"]
"""Columns worth a dictionary; the others hardly repeat themselves."""


def load_pyarrow() -> Any:
    """The library, or one sentence. Raises: UsageError."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed.",
            hint="pip install 'vigil-backfill[parquet]', or --format csv.",
        ) from error
    return pyarrow


class ParquetFiles:
    """A `Sink` of Parquet files: one, one a month, or one a user after the other."""

    def __init__(self, place: Place, wanted: Wanted, description: dict[str, Any]) -> None:
        self._place = place
        self._wanted = wanted
        self._pa = load_pyarrow()
        self._decoder = _Decoder(self._pa, wanted.numbers)
        schema = self._decoder.schema
        if wanted.partition is Partition.USER:  # as pyarrow reads the directory's name, or it could not read both
            schema = schema.set(
                0, self._pa.field("user_address", self._pa.dictionary(self._pa.int32(), self._pa.string()))
            )
        self._schema = schema.with_metadata({"vigil": json.dumps(description)})
        self._open: dict[str, _File] = {}
        self._written: list[Written] = []
        if wanted.partition is Partition.NONE:
            self._file("")

    def write(self, block: bytes) -> None:
        table = self._decoder.decode(block)
        for part, rows in self._parts(table):
            if self._wanted.partition is Partition.USER and part not in self._open:
                self._finish()
            self._file(part).add(rows)
        while sum(file.waiting for file in self._open.values()) > WAITING_ROWS:
            max(self._open.values(), key=lambda file: file.waiting).flush()

    def close(self) -> list[Written]:
        self._finish()
        return self._written

    def abandon(self) -> None:
        for file in self._open.values():
            file.abandon()

    def _parts(self, table: Any) -> Iterator[tuple[str, Any]]:
        if self._wanted.partition is Partition.USER:
            yield from self._users(table)
        elif self._wanted.partition is Partition.MONTH:
            yield from self._months(table)
        else:
            yield "", table

    def _users(self, table: Any) -> Iterator[tuple[str, Any]]:
        """The rows of one user are neighbours."""
        runs = self._pa.compute.run_end_encode(table.column("user_address").combine_chunks())
        start = 0
        for user, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            rows = table.slice(start, end - start)
            yield user, rows.set_column(0, self._schema.field(0), rows.column(0).dictionary_encode())
            start = end

    def _months(self, table: Any) -> Iterator[tuple[str, Any]]:
        pc = self._pa.compute
        time = table.column("time").cast(self._pa.timestamp("us"))  # as UTC has it
        months = pc.add(pc.multiply(pc.year(time), 12), pc.subtract(pc.month(time), 1))
        for month in pc.unique(months).to_pylist():
            yield f"{month // 12:04}-{month % 12 + 1:02}", table.filter(pc.equal(months, month))

    def _file(self, part: str) -> _File:
        if part not in self._open:
            self._open[part] = _File(self._pa, self._place, path_of(self._wanted, part), self._schema)
        return self._open[part]

    def _finish(self) -> None:
        while self._open:
            part = next(iter(self._open))
            self._written.append(self._open[part].close())
            del self._open[part]


class _File:
    """A Parquet file, and the rows that wait for its next row group."""

    def __init__(self, pa: Any, place: Place, name: str, schema: Any) -> None:
        self._pa = pa
        self._rows = 0
        self.waiting = 0
        self._tables: list[Any] = []
        self._output: Output = place.create(name)
        order = [pa.parquet.SortingColumn(COLUMNS.index(column)) for column in ("user_address", "time", "seq")]
        self._writer = pa.parquet.ParquetWriter(
            self._output, schema, compression="zstd", use_dictionary=REPEATING, sorting_columns=order
        )

    def add(self, rows: Any) -> None:
        self._tables.append(rows)
        self.waiting += rows.num_rows
        if self.waiting >= ROW_GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._tables:
            table = self._pa.concat_tables(self._tables).replace_schema_metadata(self._writer.schema.metadata)
            self._writer.write_table(table, row_group_size=2 * ROW_GROUP_ROWS)
            self._rows += table.num_rows
            self._tables, self.waiting = [], 0

    def close(self) -> Written:
        self.flush()
        self._writer.close()
        self._output.settle()
        return Written(self._output.path, self._rows, self._output.size)

    def abandon(self) -> None:
        self._output.forget()
        self._writer.close()
        self._output.close()


class _Decoder:
    """COPY's CSV to a table of the types that `fills` has."""

    def __init__(self, pa: Any, numbers: Numbers) -> None:
        self._pa = pa
        self._decimal = pa.decimal128(PRECISION, SCALE) if numbers is Numbers.DECIMAL else None
        self._read = {**dict.fromkeys(COLUMNS, pa.string()), **_types(pa)}
        kept = {name: self._decimal for name in AMOUNTS if self._decimal is not None}
        self.schema = pa.schema([(name, {**self._read, **kept}[name]) for name in COLUMNS])

    def decode(self, block: bytes) -> Any:
        """Raises: VigilError naming the first row that holds a value which its type can't."""
        pa = self._pa
        try:
            table = self._parse(block, self._read)
            if self._decimal is not None:
                for place, name in enumerate(COLUMNS):
                    if name in AMOUNTS:
                        table = table.set_column(place, name, self._to_decimal(table.column(name)))
        except (pa.ArrowInvalid, _TooLong) as error:
            text = {**self._read, **dict.fromkeys(("time", "block_time"), pa.string())}
            raise self._explained(self._parse(block, text), error) from error
        return table

    def _parse(self, block: bytes, types: dict[str, Any]) -> Any:
        csv = self._pa.csv
        return csv.read_csv(
            self._pa.BufferReader(block),
            csv.ReadOptions(column_names=COLUMNS, block_size=len(block) + 1),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,  # NULL is nothing, "" the empty string
                true_values=["t"],
                false_values=["f"],
                timestamp_parsers=[csv.ISO8601],
            ),
        )

    def _to_decimal(self, texts: Any) -> Any:
        pc = self._pa.compute
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        if (
            longest > WHOLE_DIGITS
            and pc.any(pc.match_substring_regex(texts, f"^-?[0-9]{{{WHOLE_DIGITS + 1}}}")).as_py()
        ):
            raise _TooLong
        return texts.cast(self._decimal)

    def _explained(self, table: Any, error: Exception) -> VigilError:
        for row in table.to_pylist():
            wrong = [name for name in AMOUNTS if self._decimal is not None and not fits(row[name])]
            wrong += [name for name in ("time", "block_time") if row[name] in ("infinity", "-infinity")]
            for name in wrong:
                where = f"user {row['user_address']}, time {row['time']}, coin {row['coin']}, tid {row['tid']}"
                amount = name in AMOUNTS
                limit = f"{WHOLE_DIGITS} digits before and {SCALE} after the point" if amount else "an instant"
                instead = "--numbers text, or --format csv, keep it as it is." if amount else "--format csv keeps it."
                return VigilError(
                    f"A Parquet {'decimal' if amount else 'timestamp'} can't hold {name} = {row[name][:60]} exactly"
                    f" ({limit}): {where}. Nothing was exported.",
                    hint=instead,
                )
        return VigilError(
            f"The rows can't be written as Parquet: {error}.", hint="--format csv takes them as they are."
        )


class _TooLong(Exception):
    """A number with too many digits before the point."""


def fits(text: str | None) -> bool:
    """Whether the number, as Postgres prints it, is a decimal128(38, 18) without being rounded."""
    if text is None:
        return True
    number = Decimal(text)
    if not number.is_finite():
        return False
    whole, _, fraction = text.lstrip("-").partition(".")
    return len(whole) <= WHOLE_DIGITS and len(fraction.rstrip("0")) <= SCALE


def _types(pa: Any) -> dict[str, Any]:
    """Of all columns that are not read as text."""
    return {
        **dict.fromkeys(("oid", "tid", "twap_id"), pa.int64()),
        **dict.fromkeys(("time", "block_time"), pa.timestamp("us", "UTC")),
        "crossed": pa.bool_(),
        "seq": pa.int32(),
    }
