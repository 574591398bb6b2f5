"""A file on its way: what the system refuses is told in a sentence, and what is given up can be forgotten."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vigil.errors import VigilError


class ReaderGone(VigilError):
    """Who read our standard output has enough (`| head`)."""

    exit_code = 0


@contextmanager
def told(what: Path | str) -> Iterator[None]:
    """Say in a sentence what the system refused: a full disk, a right that lacks."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone("The reader of standard output is gone.") from error
    except OSError as error:
        raise VigilError(
            f"The export can't be written to {what}: {error.strerror or error}.",
            hint="Nothing of it was left there. Make room, or choose another place, and run it again.",
        ) from error


class _Raw(io.FileIO):
    """A file that can be told to forget: what is written to it from then on goes nowhere."""

    forgotten = False

    def write(self, data: Any) -> int:
        return len(memoryview(data).cast("B")) if self.forgotten else super().write(data)


class Output(io.BufferedWriter):
    """A file on its way. Raises VigilError where the system refuses a write."""

    def __init__(self, fd: int | Path, name: str) -> None:
        with told(name):
            raw = _Raw(fd, "wb", closefd=not isinstance(fd, int))
        super().__init__(raw, buffer_size=1 << 18)
        self.path, self.size = name, 0
        self._forget = raw

    def write(self, data: Any) -> int:
        with told(self.path):
            written = super().write(data)
        self.size += written
        return written

    def forget(self) -> None:
        """Give it up: from here on writing and closing do nothing, and so can't fail."""
        self._forget.forgotten = True

    def settle(self) -> None:
        """Have all of it on the disk, and close."""
        with told(self.path):
            self.flush()
            with suppress(io.UnsupportedOperation):
                if self.seekable():  # a pipe can't be synced
                    os.fsync(self.fileno())
            self.close()
