"""Archives as files, and what a load made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lz4.frame

from tests.kit.factories import Row, wire_row
from vigil.load.loading import Load, LoadTally
from vigil.load.places import find
from vigil.settings import Settings

START = 1_753_660_800_000
USERS = [f"0x{n:040x}" for n in range(1, 9)]


def block_line(events: Iterable[tuple[str, object]], block_time: object = "2025-07-28T00:00:00.273720999") -> str:
    pairs = [list(event) for event in events]
    return json.dumps({"local_time": "x", "block_time": block_time, "block_number": 1, "events": pairs})


def events_of(count: int, first: int = 1, **changes: Any) -> list[tuple[str, Row]]:
    """Fills of all users in turn, a millisecond apart, told apart by `tid`."""
    return [(USERS[tid % len(USERS)], wire_row(START + tid, tid, **changes)) for tid in range(first, first + count)]


def lines_of(events: Sequence[tuple[str, Row]], in_block: int = 3) -> bytes:
    """Whole lines of node_fills_by_block."""
    blocks = (events[at : at + in_block] for at in range(0, len(events), in_block))
    return "".join(f"{block_line(block)}\n" for block in blocks).encode()


def packed(text: bytes, block_bytes: int = 64) -> bytes:
    """An lz4 frame whose blocks are small, so that it can be cut in many places."""
    with lz4.frame.LZ4FrameCompressor(auto_flush=True, block_linked=False) as compressor:
        parts = [compressor.begin()]
        parts += [compressor.compress(text[at : at + block_bytes]) for at in range(0, len(text), block_bytes)]
        return b"".join([*parts, compressor.flush()])


def settings_of(**overrides: Any) -> Settings:
    given = {"database_patience_seconds": 10.0, "database_timeout_seconds": 20.0, "batch_rows": 50, **overrides}
    return Settings(**{"_env_file": None, **given})


async def loaded(url: str, *paths: Path | str, settings: Settings | None = None, **how: Any) -> LoadTally:
    """A load of the paths in this process."""
    tally = await Load(settings or settings_of(), url, find([str(path) for path in paths]), **how).execute()
    assert tally.received == tally.inserted + tally.updated + tally.already_there + tally.rejected
    return tally
