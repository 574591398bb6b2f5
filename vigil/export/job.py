"""One export: a snapshot, a stream for each span of users, and what is known of their completeness."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from vigil.db import Connection, Link, sql
from vigil.errors import StoreError, UsageError
from vigil.export.lines import CsvFiles
from vigil.export.parquet import ParquetFiles, load_pyarrow
from vigil.export.place import Place
from vigil.export.wanted import Exported, Format, Progress, Sink, Span, Wanted, described, spans
from vigil.settings import Settings

BLOCK_BYTES = 16 * 1024 * 1024
"""Text of some 50,000 rows: enough that a block's own cost does not show. Two or three are in memory at once."""

FOR_EVER = 10 * 365 * 86_400.0
"""Seconds. A statement of an export may take as long as it takes: its rows tell that it lives."""

STUCK_SECONDS = 3.0
"""For a block under way when all is given up: it takes less than one, unless nobody reads the pipe."""

SESSION = {
    "datestyle": "ISO, YMD",  # what Parquet's reader and COPY FROM understand
    "jit": "off",
    "work_mem": "64MB",  # for the sort of a span
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",  # the disk may be slow
}

Tell = Callable[[Progress], None]


class Export:
    """What `wanted` asks for, from the database to `place`; `execute` once."""

    def __init__(self, settings: Settings, dsn: str, wanted: Wanted, place: Place, tell: Tell = lambda _: None) -> None:
        self._link = Link(dsn, settings, server_settings=SESSION)
        self._wanted = wanted
        self._place = place
        self._tell = tell
        self._users = None if wanted.users is None else sorted(set(wanted.users))
        self.progress = Progress()
        """Live."""

    async def execute(self) -> Exported:
        """Export, or leave nothing behind. Raises: UsageError, VigilError; a cancellation cleans up as well."""
        if self._wanted.format is Format.PARQUET:
            load_pyarrow()
        try:
            self._place.prepare()
            exported = await self._link.run(self._read, patience=0, timeout=FOR_EVER)
            self._place.publish(exported.as_dict())
        finally:
            self._place.abandon()
            await self._link.close()
        return exported

    async def _read(self, connection: Connection) -> Exported:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot_at = await connection.fetchval(sql("export_snapshot"))
            exported = Exported(self._wanted, f"vigil-backfill {version('vigil-backfill')}", snapshot_at)
            exported.strangers = await self._strangers(connection)
            description = described(self._wanted, exported.created_by, snapshot_at)
            sink: Sink = (
                ParquetFiles(self._place, self._wanted, description)
                if self._wanted.format is Format.PARQUET
                else CsvFiles(self._place, self._wanted)
            )
            blocks = _Blocks(sink, self._count)
            try:
                received = await self._stream(connection, blocks)
                exported.files = await blocks.close()
            finally:
                await blocks.abandon()
            exported.rows = sum(file.rows for file in exported.files)
            if exported.rows != received:
                raise StoreError(f"The database sent {received:,} rows, and {exported.rows:,} were written.")
            await self._judge(connection, exported)
        return exported

    async def _strangers(self, connection: Connection) -> list[str]:
        """Users named that nobody knows. Raises: UsageError when all are, most likely by mistake."""
        if not self._users:
            return []
        strangers = [row["user_address"] for row in await connection.fetch(sql("export_strangers"), self._users)]
        if len(strangers) == len(self._users):
            who = f"{strangers[0]} is not" if len(strangers) == 1 else f"None of the {len(strangers):,} users named is"
            raise UsageError(f"{who} known here.", hint="`vigil-backfill users list` tells who is.")
        return strangers

    async def _stream(self, connection: Connection, blocks: _Blocks) -> int:
        """Every span's rows to `blocks`; returns how many the database says it has sent."""
        bounds = self._wanted.bounds
        plan = json.loads(await connection.fetchval(sql("export_estimate"), *bounds, self._users))
        expected = int(plan[0]["Plan"]["Plan Rows"])
        todo = list(spans(expected, self._users))
        self.progress.expected_rows, self.progress.spans = expected, len(todo)
        received = 0
        for span in todo:
            received += await self._copy(connection, span, blocks)
            self.progress.spans_done += 1
        return received

    async def _copy(self, connection: Connection, span: Span, blocks: _Blocks) -> int:
        query = sql("export_fills").rstrip().removesuffix(";")
        arguments = (*self._wanted.bounds, span.first, span.last, span.users)
        status = await connection.copy_from_query(query, *arguments, output=blocks.take, format="csv")
        return int(status.removeprefix("COPY "))

    async def _judge(self, connection: Connection, exported: Exported) -> None:
        """What is known of the completeness of what was written, in the same snapshot."""
        for row in await connection.fetch(sql("export_users"), *self._wanted.bounds, self._users):
            (exported.with_rows if row["with_rows"] else exported.without_rows)[row["word"]] = row["users"]
            exported.read_for_less += row["less"]
        missing = await connection.fetchrow(
            sql("export_missing"), self._wanted.start_ms, self._wanted.end_ms, self._users
        )
        assert missing is not None  # noqa: S101  one row of counts
        exported.gaps, exported.rejected_rows = missing["gaps"], missing["rejected_rows"]

    def _count(self, block: bytes) -> None:
        self.progress.rows += block.count(b"\n")  # to show; a text with a line break in it is rare
        self.progress.bytes += len(block)
        self._tell(self.progress)


class _Blocks:
    """What arrives, collected into blocks; one is written in a thread while the next one fills."""

    def __init__(self, sink: Sink, count: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._count = count
        self._parts: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[Any] | None = None
        self._closed = False

    async def take(self, data: bytes) -> None:
        """A few whole rows: COPY sends one a message, and asyncpg hands on whole messages."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= BLOCK_BYTES:
            await self._hand_over()

    async def close(self) -> Any:
        await self._hand_over()
        await self._settle()
        self._writing = _in_thread(self._sink.close)
        files = await asyncio.shield(self._writing)
        self._closed = True
        return files

    async def abandon(self) -> None:
        """Let go of the files, unless they were closed. A thread stuck in a pipe that nobody reads is left alone."""
        if self._closed:
            return
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=STUCK_SECONDS)
            if not self._writing.done():
                return
            if not self._writing.cancelled():
                self._writing.exception()  # seen: whoever awaited it has told
        self._sink.abandon()

    async def _hand_over(self) -> None:
        if not self._parts:
            return
        block = b"".join(self._parts)
        self._parts, self._size = [], 0
        await self._settle()
        self._writing = _in_thread(self._sink.write, block)
        self._count(block)

    async def _settle(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)


def _in_thread(work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    """`work` in a thread that, unlike an executor's, does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work(*arguments)
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="vigil-export").start()
    return future
