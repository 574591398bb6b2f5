"""A TCP proxy in front of Postgres that breaks the line at a chosen byte.

    async with Proxy(url) as proxy:
        cut = proxy.once(b"COMMIT", Fate.ANSWER_LOST)
        ...  # connect to proxy.url; the first COMMIT takes effect, but nobody is told
        await cut.fired.wait()

It reads what clients send and looks for bytes in it. The server is on TCP or a unix socket, as the
DSN says; the proxy's own DSN asks for no TLS, or there would be nothing to read.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

PIECE_BYTES = 1 << 16
BUFFER_BYTES = 1 << 14
"""Of each of the proxy's sockets: small, so that a stalled line is felt by the client soon."""


class Fate(Enum):
    """What happens to a connection at the trigger."""

    CUT_BEFORE = auto()  # both sides, before the server has seen it
    CUT_AFTER = auto()  # both sides, at once after it was sent on: whether the server acts on it is open
    ANSWER_LOST = auto()  # the server gets it and answers; then both sides are cut, the answer unsent
    CLIENT_CUT = auto()  # the server gets it; the client is cut off at once, the server is not told
    STALL = auto()  # nothing more reaches the server, but what the server says still reaches the client


@dataclass
class Trigger:
    """Fires once, `more` bytes after `needle` was seen in what a client sends."""

    needle: bytes
    fate: Fate
    more: int = 0
    fired: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Forwards connections; `connections` counts them. Closing it cuts what is open."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.connections = 0
        self._triggers: list[Trigger] = []
        self._wires: set[_Wire] = set()

    async def __aenter__(self) -> Self:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)  # accepted sockets inherit it
        listening.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=BUFFER_BYTES)
        self._port: int = listening.getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.cut()
        await asyncio.gather(*(wire.task for wire in self._wires), return_exceptions=True)

    @property
    def url(self) -> str:
        """The DSN that leads through here."""
        parts = urlsplit(self._dsn)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        query = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("host", "port", "sslmode")]
        query.append(("sslmode", "disable"))
        return urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self._port}", query=urlencode(query)))

    def once(self, needle: bytes, fate: Fate, *, more: int = 0) -> Trigger:
        """At the next `needle` in what any client sends, and so many bytes more, do that to its connection."""
        trigger = Trigger(needle, fate, more)
        self._triggers.append(trigger)
        return trigger

    def cut(self) -> None:
        """Cut every open connection, on both sides."""
        for wire in self._wires:
            wire.cut()

    async def refuse(self) -> None:
        """Accept no more connections: from outside, the server is down."""
        self._server.close()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        wire = _Wire(self._triggers, reader, writer)
        self._wires.add(wire)
        try:
            await wire.forward(self._dsn)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            wire.cut()
            self._wires.discard(wire)


class _Wire:
    """One connection, client to server."""

    def __init__(self, triggers: list[Trigger], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self._triggers = triggers
        self._reader, self._writer = reader, writer
        self._upstream: asyncio.StreamWriter | None = None
        self._answers_lost: asyncio.Event | None = None
        self._over = asyncio.Event()
        self._pending: tuple[Trigger, int] | None = None

    async def forward(self, dsn: str) -> None:
        answers, self._upstream = await _connect(dsn)
        async with asyncio.TaskGroup() as group:
            back = group.create_task(self._to_client(answers))
            try:
                await self._to_server()
            except ConnectionError:
                pass
            else:
                if not self._upstream.is_closing():
                    self._upstream.write_eof()
            await asyncio.wait({back})

    def cut(self) -> None:
        self._over.set()
        self._writer.transport.abort()
        if self._upstream is not None:
            self._upstream.transport.abort()

    async def _to_client(self, answers: asyncio.StreamReader) -> None:
        try:
            while data := await answers.read(PIECE_BYTES):
                if self._answers_lost is not None:
                    self._answers_lost.set()
                    continue
                self._writer.write(data)
                await self._writer.drain()
        except ConnectionError:
            pass
        if self._answers_lost is not None:
            self._answers_lost.set()
        self._over.set()
        self._writer.close()  # the server has ended the session

    async def _to_server(self) -> None:
        assert self._upstream is not None
        tail = b""
        while data := await self._reader.read(PIECE_BYTES):
            fires = self._look(tail, data)
            tail = (tail + data)[-64:]
            if fires is None:
                self._upstream.write(data)
                await self._upstream.drain()
                continue
            trigger, at = fires
            trigger.fired.set()
            await self._suffer(trigger.fate, data, at)
            return

    def _look(self, tail: bytes, data: bytes) -> tuple[Trigger, int] | None:
        """The trigger that fires within `data`, and where."""
        if self._pending is None:
            for trigger in self._triggers:
                # Not what lies in the tail entirely: that was sent before the trigger was set.
                found = (tail + data).find(trigger.needle, max(0, len(tail) - len(trigger.needle) + 1))
                if found >= 0:
                    self._triggers.remove(trigger)
                    self._pending = trigger, max(0, found - len(tail)) + trigger.more
                    break
        if self._pending is None:
            return None
        trigger, at = self._pending
        if at < len(data):
            return trigger, at
        self._pending = trigger, at - len(data)
        return None

    async def _suffer(self, fate: Fate, data: bytes, at: int) -> None:
        assert self._upstream is not None
        if fate is Fate.CUT_BEFORE:
            self._upstream.write(data[:at])
            await self._upstream.drain()
            self.cut()
            return
        if fate is Fate.STALL:
            self._upstream.write(data[:at])
            await self._over.wait()
        if fate in (Fate.ANSWER_LOST, Fate.CLIENT_CUT):
            self._answers_lost = asyncio.Event()
        self._upstream.write(data)
        await self._upstream.drain()
        if fate is Fate.CLIENT_CUT:
            self._writer.transport.abort()
            await self._over.wait()
        if self._answers_lost is not None:
            await self._answers_lost.wait()
        self.cut()


async def _connect(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server of a DSN."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    host = query.get("host") or parts.hostname or "127.0.0.1"
    port = int(query.get("port") or parts.port or 5432)
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)
