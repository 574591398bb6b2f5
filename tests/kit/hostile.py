"""An HTTP server whose every answer a test scripts, down to the byte: what no well-behaved server would send.

    async with Hostile(reply(b"null", "429 Too Many Requests"), page([])) as server:
        ...  # POST to server.url; server.requests holds what arrived

An answer is the bytes to send, or a coroutine function that is given the connection. Each request
takes the next one; when none is left, `otherwise` is sent for ever.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias


@dataclass(frozen=True)
class Request:
    """What a client sent. Header names are lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Line:
    """One request's connection, as an answer sees it."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Answer: TypeAlias = bytes | Callable[[Line], Awaitable[None]]


def reply(body: bytes, status: str = "200 OK", *, kind: str = "application/json", **headers: str) -> bytes:
    """A correct answer; `headers` by name, `_` standing for `-`, and the given ones win."""
    chosen = {"Content-Type": kind, "Content-Length": str(len(body))}
    chosen |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in chosen.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def page(rows: Sequence[object]) -> bytes:
    return reply(json.dumps(rows).encode())


def zipped(body: bytes) -> bytes:
    return reply(gzip.compress(body), Content_Encoding="gzip")


def cut(answer: bytes, keep: int) -> Callable[[Line], Awaitable[None]]:
    """Send only `keep` bytes of `answer` and close the connection as if that were all."""

    async def send(line: Line) -> None:
        line.writer.write(answer[:keep])
        line.writer.write_eof()

    return send


async def reset(line: Line) -> None:
    """Answer with a TCP reset."""
    sock = line.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.writer.transport.abort()


async def silence(line: Line) -> None:
    """Answer nothing, until the client goes away."""
    while await line.reader.read(4096):
        pass


def drip(answer: bytes, seconds: float) -> Callable[[Line], Awaitable[None]]:
    """Send `answer` a byte at a time, one in `seconds`."""

    async def send(line: Line) -> None:
        for byte in answer:
            line.writer.write(bytes([byte]))
            await line.writer.drain()
            await asyncio.sleep(seconds)

    return send


@dataclass
class Hostile:
    """The server; `port` 0 takes a free one. Closed, it refuses connections."""

    answers: tuple[Answer, ...]
    otherwise: Answer
    port: int
    requests: list[Request] = field(default_factory=list)
    open_connections: int = 0

    def __init__(self, *answers: Answer, otherwise: Answer | None = None, port: int = 0) -> None:
        self.answers = answers
        self.otherwise = page([]) if otherwise is None else otherwise
        self.port = port
        self.requests = []
        self.open_connections = 0
        self._changed = asyncio.Condition()
        self._lines: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._lines:
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/info"

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; looked at whenever a request arrives or a connection ends."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        self.open_connections += 1
        try:
            while (request := await _read(reader)) is not None:
                number = len(self.requests)
                self.requests.append(request)
                await self._tell()
                answer = self.answers[number] if number < len(self.answers) else self.otherwise
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(Line(request, reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self.open_connections -= 1
            self._lines.discard(task)
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The next request, None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return Request(head[0], headers, body)


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
