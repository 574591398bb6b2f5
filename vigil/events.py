"""A long command as JSON lines on stdout, for scripts: `progress`, `user_done`, `warning`, `summary`, `error`.

Every line is an object with `v` (the version of this schema, docs/json.md), `event` and `at` (UTC,
ISO 8601, ms). Fields are only ever added within a version. A reader that goes away ends the lines,
not the run.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from vigil.errors import VigilError
from vigil.pipeline import Finished
from vigil.tally import Tally
from vigil.views import Look, Show, run_fields
from vigil.worker import give_up

log = logging.getLogger(__name__)

VERSION = 1


class Events:
    """Writes the lines to `stream`."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: closed before we began

    @property
    def heard(self) -> bool:
        """Whether anybody may still read the lines."""
        return self._stream is not None

    def emit(self, event: str, **fields: Any) -> None:
        if self._stream is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            line = json.dumps({"v": VERSION, "event": event, "at": at, **fields}, default=_plain)
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError as error:
            give_up(self._stream)
            self._stream = None
            if not isinstance(error, BrokenPipeError):
                log.warning("no more JSON lines: standard output can't be written to: %s", error.strerror or error)

    def user_done(self, finished: Finished) -> None:
        """A user was read, or failed: for `Run(on_user=...)`."""
        reading = finished.reading
        self.emit(
            "user_done",
            user=finished.user,
            list=str(finished.stream),
            pages=reading.pages if reading else 0,
            rows=reading.rows if reading else 0,
            weight=reading.weight if reading else 0,
            error=finished.error,
        )

    def summary(self, tally: Tally) -> None:
        """The last line of a run that ended, however."""
        self.emit("summary", **run_fields(tally), exit_code=tally.exit_code, stopped_at=tally.limit)

    def error(self, error: VigilError) -> None:
        """Instead of a summary: why the command failed."""
        self.emit("error", message=str(error), hint=error.hint or None, exit_code=error.exit_code)

    def beside(self, show: Show, seconds: float) -> Show:
        """The same, and a line of progress every so often."""

        async def both(look: Look) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(show(look))
                while True:
                    await asyncio.sleep(seconds)
                    self.emit("progress", **look().fields)

        return both

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """What is logged within the block as a warning is a line, too."""
        handler = _Warnings(self)
        logger = logging.getLogger("vigil")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _Warnings(logging.Handler):
    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.emit("warning", message=record.getMessage())


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
