"""Pages to committed rows by what stands between people and their driver: SQLAlchemy and dlt, in the extra `bench`."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.baselines.parsed import dicts
from benchmarks.baselines.table import KEY, Page
from vigil.store import FILLS_COLUMNS

BATCH_ROWS = 1000
_DLT_TYPES: dict[str, dict[str, Any]] = {
    "text": {"data_type": "text"},
    "numeric": {"data_type": "decimal", "precision": 38, "scale": 18},
    "bigint": {"data_type": "bigint"},
    "integer": {"data_type": "bigint"},
    "boolean": {"data_type": "bool"},
    "timestamp with time zone": {"data_type": "timestamp"},
    "jsonb": {"data_type": "json"},
}


async def sqlalchemy_insert(dsn: str, table: str, pages: Sequence[Page]) -> None:
    """Core's `insert().on_conflict_do_nothing()` with lists of rows, over psycopg; the table is reflected."""
    await asyncio.to_thread(_sqlalchemy_insert, dsn, table, pages)


def _sqlalchemy_insert(dsn: str, table: str, pages: Sequence[Page]) -> None:
    alchemy, psycopg = importlib.import_module("sqlalchemy"), importlib.import_module("psycopg")
    dialect = importlib.import_module("sqlalchemy.dialects.postgresql")
    engine = alchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    # Its JSONB makes JSON's null of None where nobody asks for NULL.
    no_nulls = [alchemy.Column(name, dialect.JSONB(none_as_null=True)) for name in ("liquidation", "extra")]
    target = alchemy.Table(table, alchemy.MetaData(), *no_nulls, autoload_with=engine)
    statement = dialect.insert(target).on_conflict_do_nothing()
    for user, body in pages:
        with engine.begin() as connection:
            for batch in _batches(dicts(user, body)):
                connection.execute(statement, batch)
    engine.dispose()


def _batches(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in itertools.count(0, BATCH_ROWS):
        if not (batch := rows[start : start + BATCH_ROWS]):
            return
        yield batch


async def dlt_merge(dsn: str, table: str, pages: Sequence[Page]) -> None:
    """A dlt pipeline, the key its primary key; the table is of dlt's making, in its own schema, the key not indexed."""
    await asyncio.to_thread(_dlt_merge, dsn, table, pages)


def _dlt_merge(dsn: str, table: str, pages: Sequence[Page]) -> None:
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # a benchmark is nobody's business
    dlt, psycopg = importlib.import_module("dlt"), importlib.import_module("psycopg")
    columns = {name: {**_DLT_TYPES[kind], "nullable": name not in KEY} for name, kind in FILLS_COLUMNS.items()}

    def fills() -> Iterator[list[dict[str, Any]]]:
        for user, body in pages:
            yield dicts(user, body)

    with tempfile.TemporaryDirectory(prefix="vigil-bench-dlt-") as directory:
        pipeline = dlt.pipeline(
            pipeline_name=table,
            pipelines_dir=directory,
            destination=dlt.destinations.postgres(_dlt_credentials(psycopg.conninfo.conninfo_to_dict(dsn))),
            dataset_name=f"{table}_by_dlt",
        )
        resource = dlt.resource(
            fills, name=table, primary_key=KEY, write_disposition="merge", columns=columns, max_table_nesting=0
        )
        pipeline.run(resource, loader_file_format="csv")  # the fastest of its formats for Postgres


def _dlt_credentials(parts: dict[str, Any]) -> dict[str, Any]:
    """dlt wants a host and a password even where there are none; of two hosts, libpq takes the one in the query."""
    return {
        "database": parts.get("dbname", "postgres"),
        "username": parts.get("user", "postgres"),
        "password": parts.get("password") or "none",
        "host": "localhost",
        "port": int(parts.get("port", 5432)),
        "query": {name: parts[name] for name in ("host", "sslmode") if name in parts},
    }
