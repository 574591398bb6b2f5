"""What is logged as lines: sentences for people, JSON for whoever collects them (docs/logs.md).

Every room logs with the standard library's `logging`, as the libraries do, and knows nothing of this one. Whom a line
is about comes from the context that it is logged in: what `about` and `bind` say holds for the task that says it and
for the tasks it starts, never for those beside it. The cost is per user and per request, none per row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from structlog.contextvars import bind_contextvars, bound_contextvars, merge_contextvars
from structlog.processors import JSONRenderer, format_exc_info
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

about = bound_contextvars
"""`with about(worker=..., user=...)`: what is logged within is about them."""

bind = bind_contextvars
"""The same until the block of an `about` that names them too ends: for what is only known deeper in it."""

CONTEXT = ("worker", "user", "lane")
"""In the order in which a line tells them."""


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"  # sentences on a terminal, JSON elsewhere
    HUMAN = "human"
    JSON = "json"  # and so is all other talk on stderr


def json_line(event: str, level: str = "info", **fields: Any) -> str:
    """Something said that no logger said, as a line like theirs."""
    found = merge_contextvars(None, level, {"event": event, "level": level, "at": datetime.now(UTC), **fields})
    return _render(None, level, _in_order(None, level, found))  # type: ignore[return-value]


@contextmanager
def logged_to(
    write: Callable[[str], object], level: int = logging.WARNING, *, as_json: bool, timed: bool = False
) -> Iterator[None]:
    """What this house logs at `level` and above, and libraries from warnings on, goes to `write` meanwhile.

    `timed` adds the time and the worker to sentences: a terminal needs neither, a file does.
    """
    handler = _Lines(write)
    chain: list[Processor] = [merge_contextvars, _of_record, format_exc_info]
    last: list[Processor] = [_in_order, _render] if as_json else [_sentence_with_time if timed else _sentence]
    handler.setFormatter(
        ProcessorFormatter(foreign_pre_chain=chain, processors=[ProcessorFormatter.remove_processors_meta, *last])
    )
    root, ours = logging.getLogger(), logging.getLogger("vigil")
    before = ours.level
    root.addHandler(handler)
    ours.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)


class _Lines(logging.Handler):
    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:  # a line that can't be told ends nothing
            self.handleError(record)


def _of_record(_: Any, level: str, found: EventDict) -> EventDict:
    record: logging.LogRecord = found["_record"]
    return {**found, "level": level, "at": datetime.fromtimestamp(record.created, UTC), "logger": record.name}


def _in_order(_: Any, __: str, found: EventDict) -> EventDict:
    """What every line has comes first, then whom it is about, then the rest."""
    time = found.pop("at").isoformat(timespec="milliseconds").replace("+00:00", "Z")
    first = {"time": time, "level": found.pop("level"), "event": found.pop("event")}
    context = {name: found.pop(name, None) for name in CONTEXT}
    return {**first, **{name: value for name, value in context.items() if value is not None}, **found}


_render = JSONRenderer()


def _sentence(_: Any, level: str, found: EventDict, *, names: tuple[str, ...] = CONTEXT[1:]) -> str:
    text = str(found["event"])
    context = {name: found.get(name) for name in names}
    told = ", ".join(f"{name} {value}" for name, value in context.items() if value and not _names(text, str(value)))
    trace = f"\n{found['exception']}" if found.get("exception") else ""
    return f"{level}: {text}{f' ({told})' if told else ''}{trace}"


def _names(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _sentence_with_time(_: Any, level: str, found: EventDict) -> str:
    return f"{found['at']:%Y-%m-%dT%H:%M:%SZ} {_sentence(_, level, found, names=CONTEXT)}"
