"""The process that reads: requests come on standard input, batches go out on standard output.

    request: a line of JSON (`Request`)         answer: frames, a length of 4 bytes and so much MessagePack (`Frame`)

A pipe holds little, so it is at most one batch ahead of who takes them. It ends when its input does, that is also
when its owner is killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
from contextlib import suppress
from functools import partial

import msgspec

from vigil.archives import ArchiveUnavailable, Batch, BatchSize, NotFills, Place, Scope, batches
from vigil.errors import UsageError, VigilError
from vigil.load import places

LENGTH = struct.Struct("<I")
PIPE_BYTES = 1 << 20


class Request(msgspec.Struct):
    """A file to read, where it may go on, what of it is wanted, how large a batch may be; `stdin` is a descriptor."""

    item: places.Item
    points: list[Place]
    start_ms: int
    end_ms: int
    users: list[str] | None
    size: BatchSize
    stdin: int = 0


class Failure(msgspec.Struct):
    """Why a file can't be read: the error's kind, its sentence and hint."""

    kind: str
    sentence: str
    hint: str


class Frame(msgspec.Struct):
    """A batch; or a failure, or nothing, after which no more comes of this file."""

    batch: Batch | None = None
    failure: Failure | None = None


FAILURES = {kind.__name__: kind for kind in (NotFills, ArchiveUnavailable, UsageError)}


def read(request: Request) -> None:
    """Answer one request."""
    users = None if request.users is None else frozenset(request.users)
    scope = Scope(request.start_ms, request.end_ms, users)
    opened = partial(places.opened, request.item, request.stdin)
    try:
        for batch in batches(opened, request.points, scope, request.size, partial(places.whole, request.item)):
            _send(Frame(batch))
        _send(Frame())
    except VigilError as error:
        _send(Frame(failure=Failure(type(error).__name__, str(error), error.hint)))
    except BrokenPipeError:  # nobody takes the batches any more
        raise
    except OSError as error:  # a bucket's Parquet is brought to this machine's disk
        _send(Frame(failure=Failure(ArchiveUnavailable.__name__, f"it can't be read: {error.strerror or error}", "")))


def _send(frame: Frame) -> None:
    data = msgspec.msgpack.encode(frame)
    out = memoryview(LENGTH.pack(len(data)) + data)
    while out:
        out = out[os.write(1, out) :]


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # they are its owner's to mind
        signal.signal(signum, signal.SIG_IGN)
    with suppress(OSError, AttributeError):
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    for line in sys.stdin.buffer:
        with suppress(BrokenPipeError):
            read(msgspec.json.decode(line, type=Request))


if __name__ == "__main__":
    main()
