"""Lines of `node_fills` and `node_fills_by_block` to rows.

A stretch of ordinary lines is decoded at once. When that fails, or where escapes might hide what Postgres
can't store, line by line, and where a line fails, row by row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from vigil.address import normalize_address
from vigil.archives.batch import Scope
from vigil.archives.documents import check_storable
from vigil.archives.trouble import NotFills
from vigil.copy_text import archived_line
from vigil.errors import UsageError
from vigil.fills import (
    BEYOND,
    Fill,
    Rejected,
    amounts_are_plain,
    derive_tid,
    fill_from,
    may_surprise,
    parse_json,
    readable_time,
    settle_extra,
)

UNRECOGNISED_LINES = 10
"""So many lines at the beginning that are none of ours: the file is something else."""

CACHED_USERS = 100_000

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-](?:0\d|1[0-5]):?[0-5]\d)?", re.ASCII)


class _Block(msgspec.Struct, gc=False):
    """A line of `node_fills_by_block`; what else it holds (local_time, block_number) is not kept."""

    events: list[tuple[str, Fill]]
    block_time: str | None = None


_decode_blocks = msgspec.json.Decoder(_Block).decode_lines
_decode_pairs = msgspec.json.Decoder(tuple[str, Fill]).decode_lines


class Rows:
    """Collects the rows of lines that are `add`ed, until they are taken for a batch.

    `recognised`: lines before them were ours, so that what is none of ours now is a row to reject.
    """

    def __init__(self, scope: Scope, *, recognised: bool = False) -> None:
        self._scope = scope
        self._everything = scope == Scope()
        self._addresses: dict[str, str] = {}
        self._recognised = recognised
        self._unrecognised = 0
        self.clear()

    def clear(self) -> None:
        self.lines: list[str] = []
        self.rejected: list[tuple[str, Rejected]] = []
        self.passed_over = 0

    def __len__(self) -> int:
        return len(self.lines) + len(self.rejected) + self.passed_over

    def add(self, text: bytes) -> None:
        """Add whole lines. Raises: NotFills when they are none of ours."""
        blocks = None if may_surprise(text) else _decoded(text)
        if blocks is None:
            for line in text.split(b"\n"):
                if line.strip():
                    self._add_line(line)
            return
        self._recognised = True
        for block_time, events in blocks:
            self._add_events(events, block_time)

    def add_last(self, line: bytes) -> bool:
        """Add a line that has no end; False when it is cut."""
        try:
            parse_json(line)
        except (ValueError, RecursionError):
            return False
        self.add(line)
        return True

    def check_recognised(self) -> None:
        """Raises: NotFills when there were lines, but none was ours."""
        if self._unrecognised and not self._recognised:
            raise not_fills()

    def _add_events(self, events: Iterable[tuple[str, Fill]], block_time: str | None) -> None:
        lines, addresses, scope = self.lines, self._addresses, self._scope
        for told, fill in events:
            user = addresses.get(told) or self._address(told)
            if self._everything or scope.wants(user, fill.time):
                lines.append(archived_line(user, fill, block_time))
            else:
                self.passed_over += 1

    def _address(self, told: str) -> str:
        if len(self._addresses) >= CACHED_USERS:
            self._addresses.clear()
        user = self._addresses[told] = normalize_address(told)
        return user

    def _add_line(self, line: bytes) -> None:
        row: Any = None
        try:
            row = parse_json(line)
            if _is_trade(row) and not self._recognised:
                raise NotFills(
                    "It holds trades (node_trades), not users' fills.", hint="Load node_fills or node_fills_by_block."
                )
            block_time, events = _events_of(row)
        except (ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            self._reject("", line.decode("utf-8", "backslashreplace"), f"the line is no archive's: {reason}", row)
            self._unrecognised += 1
            if not self._recognised and self._unrecognised >= UNRECOGNISED_LINES:
                raise not_fills() from None
            return
        self._recognised = True
        for event in events:
            self._add_event(event, block_time)

    def _add_event(self, event: Any, block_time: Any) -> None:
        user, row = "", None
        try:
            if not (isinstance(event, list) and len(event) == 2 and isinstance(event[0], str)):
                raise ValueError("the event is no pair of a user and a fill")
            row = event[1]
            user = normalize_address(event[0])
            fill = fill_from(row)
            _drop_nulls(fill)
            moment = moment_of(block_time)
            if moment is None and block_time is not None:
                check_storable(block_time)
                fill.extra = {**(fill.extra or {}), "block_time": block_time}
            if fill.tid is None:
                fill.tid = derive_tid(fill)
            line = archived_line(user, fill, moment)
        except (ValueError, TypeError, RecursionError, UsageError) as error:
            whole = json.dumps(event if not user else row, default=str)
            self._reject(user, whole, str(error) or type(error).__name__, row)
            return
        if self._scope.wants(user, fill.time):
            self.lines.append(line)
        else:
            self.passed_over += 1

    def _reject(self, user: str, raw: str, reason: str, row: Any) -> None:
        self.rejected.append((user, Rejected(raw, reason, readable_time(row))))


def not_fills() -> NotFills:
    return NotFills(
        "It is no archive of fills: neither lines of node_fills or node_fills_by_block, nor Parquet.",
        hint="docs/archives.md tells what can be loaded.",
    )


Events = list[tuple[str, Fill]]


def _decoded(text: bytes) -> list[tuple[str | None, Events]] | None:
    """The blocks of ordinary lines, ready to be added; None where there is something to look at closely."""
    blocks: list[tuple[str | None, Any]] = []
    try:
        if text.lstrip()[:1] == b"{":
            for block in _decode_blocks(text):
                moment = moment_of(block.block_time)
                if moment is None and block.block_time is not None:
                    return None
                blocks.append((moment, block.events))
        else:
            blocks.append((None, _decode_pairs(text)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    fills = [fill for _, events in blocks for _, fill in events]
    if not amounts_are_plain(fills) or not all(is_address(told) for told in {user for _, e in blocks for user, _ in e}):
        return None
    for fill in fills:
        if fill.tid is None:
            fill.tid = derive_tid(fill)
        settle_extra(fill)
        _drop_nulls(fill)
    return blocks


is_address = re.compile(r"0[xX][0-9a-fA-F]{40}").fullmatch


def _drop_nulls(fill: Fill) -> None:
    """Of the keys that every archived row has, with something in them or not: it would be stored with each."""
    if fill.extra:
        told = fill.extra.items()
        fill.extra = {name: value for name, value in told if value is not None or name not in BEYOND} or None


def _is_trade(row: Any) -> bool:
    return isinstance(row, dict) and "events" not in row and {"coin", "px", "sz", "side"} <= row.keys()


def _events_of(row: Any) -> tuple[Any, list[Any]]:
    """The block's time and its events. Raises: ValueError."""
    if isinstance(row, dict) and isinstance(row.get("events"), list):
        return row.get("block_time"), row["events"]
    if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str):
        return None, [row]
    raise ValueError("neither [user, fill] nor a block with events")


def moment_of(told: Any) -> str | None:
    """A block's time for Postgres, None if it can't be read; UTC where it names no zone.

    Cut after the microsecond rather than rounded, so that it is never later than it was.
    """
    match = _ISO.fullmatch(told) if isinstance(told, str) else None
    if match is None:
        return None
    day, time, fraction, zone = match.groups()
    moment = f"{day}T{time}.{(fraction or '0')[:6]:0<6}{zone or 'Z'}"
    try:
        datetime.fromisoformat(moment)
    except ValueError:
        return None
    return moment
