"""The owner's end of the decoding process: one file after the other, one batch ahead."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from vigil.archives import Batch, BatchSize, Place, Scope
from vigil.errors import VigilError
from vigil.load.decoder import FAILURES, LENGTH, Frame, Request
from vigil.load.places import Item


class ReadingError(Exception):
    """A file can't be read, for the reason that is its `cause`; others can be read all the same."""

    def __init__(self, cause: VigilError) -> None:
        super().__init__(str(cause))
        self.cause = cause


_BUFFER_BYTES = 8 << 20
_decode = msgspec.msgpack.Decoder(Frame).decode


class Reader:
    """An async context manager; `start` a file, take what is `next`, `stop` before another one."""

    def __init__(self, scope: Scope, size: BatchSize) -> None:
        self._scope, self._size = scope, size
        self._process: asyncio.subprocess.Process | None = None
        self._coming: asyncio.Future[Batch | None] | None = None
        self._ended = True
        self._stdin: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = False
        await self.stop()

    async def start(self, item: Item, points: Sequence[Place]) -> None:
        """Begin to read a file behind the furthest of the points that it agrees with."""
        process = await self._running()
        scope = self._scope
        users = None if scope.users is None else list(scope.users)
        request = Request(item, list(points), scope.start_ms, scope.end_ms, users, self._size, self._stdin or 0)
        assert process.stdin is not None  # noqa: S101
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        await process.stdin.drain()
        self._ended = False

    def prefetch(self) -> asyncio.Future[Batch | None]:
        """The next batch, on its way."""
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._receive())
        return self._coming

    async def next(self) -> Batch | None:
        """The next batch, None behind the last one. Raises: ReadingError; VigilError when the process died."""
        coming, self._coming = self.prefetch(), None
        return await coming

    async def stop(self) -> None:
        """Be ready for another file; one that was not read to its end is left."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
            if not coming.cancelled():
                coming.exception()  # seen: the file is left
        process = self._process
        if process is None or self._ended:
            return
        self._process = None
        with suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        await process.communicate()

    async def _receive(self) -> Batch | None:
        if self._ended:
            return None
        assert self._process is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            (length,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
            frame = _decode(await self._process.stdout.readexactly(length))
        except asyncio.IncompleteReadError:
            code = await self._process.wait()
            why = f"killed by signal {-code}, perhaps for want of memory" if code < 0 else "by the error told above"
            raise VigilError(
                f"The process that decodes ended early: {why}.",
                hint="Run the same command again: it goes on with what is missing.",
            ) from None
        self._ended = frame.batch is None
        if frame.failure is not None:
            raise ReadingError(FAILURES[frame.failure.kind](frame.failure.sentence, hint=frame.failure.hint))
        return frame.batch

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            inherited = os.dup(0)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "vigil.load.decoder",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_BUFFER_BYTES,
                    pass_fds=(inherited,),
                )
            finally:
                os.close(inherited)
            self._stdin = inherited
        return self._process
