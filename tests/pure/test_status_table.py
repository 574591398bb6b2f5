"""What `status` looks like: on any terminal, and in any state of the backfill."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from vigil.cli.status import _details, _facts, _table
from vigil.status import Status

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

BUSY = Status(
    at=NOW,
    users=10_000_000,
    completed=3_500_000,
    claimed=800,
    pending=6_400_000,
    failed=99_200,
    fills=1_234_567_890,
    oldest_fill_time=1_672_531_200_000,
    rejected_fills=12,
    gaps=34,
    users_with_gaps=30,
    workers_alive=29,
    workers_dead=1,
    workers=[
        {
            "host": f"machine-{n}.fleet.example",
            "pid": 100 + n,
            "lanes": [f"192.0.2.{n}"],
            "alive": n > 0,
            "started_at": NOW - timedelta(hours=5),
            "heard_at": NOW - timedelta(seconds=10),
        }
        for n in range(30)
    ],
    timescaledb=True,
    users_losing=1200,
    lost_per_hour=5432.1,
    fills_at_stake=7_654_321,
    faults={"late": 3, "refused": 0},
    lanes=[
        {"lane": "192.0.2.1", "workers": 1, "used_weight": 1190, "share_weight": 1200, "utilisation": 0.992},
        {"lane": "192.0.2.2", "workers": 1, "used_weight": 0, "share_weight": 1200, "utilisation": None},
    ],
    pace={
        "seconds": 900.0,
        "rows_per_second": 4321.0,
        "users_per_hour": 98_765.0,
        "weight": 17_000,
        "utilisation": 0.95,
        "pauses": 2,
    },
    users_left=6_400_800,
    weight_left={"low": 8e7, "expected": 9e7, "high": 1e8},
    eta_seconds={"low": 2.0e5, "expected": 2.5e5, "high": 3.0e5},
    verdicts=[
        {
            "verdict": "truncated",
            "users": 5,
            "fills": 50_000,
            "notional": 1e9,
            "users_with_volume": 4,
            "captured_share": 0.43,
        }
    ],
    unjudged=7,
    daily_stale={"from_ms": 1_700_000_000_000, "to_ms": 1_700_086_400_000},
    errors=[{"user_address": "0x" + "ab" * 20, "attempts": 3, "last_error": "The exchange answers with [red]500[/]."}],
)


def shown(found: Status, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, no_color=True, highlight=False).print(_table(found))
    return stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize("width", [32, 40, 60, 80, 200])
def test_every_word_is_there_however_narrow_the_terminal(width: int) -> None:
    text = shown(BUSY, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text
    told = "".join(text.split())
    for name, value in [*_facts(BUSY), *_details(BUSY)]:
        column = "".join(line[15:] for line in text.splitlines())  # beside the names
        assert "".join(value.split()) in "".join(column.split()), (name, value)
        assert "".join(name.split()) in told


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, "2.9 days (2.3 days to 3.5 days), about 90,000,000 weight (80,000,000 to 100,000,000)"),
        ({"eta_seconds": None, "workers_alive": 0}, "nobody is at work"),
        ({"eta_seconds": None}, "about 90,000,000 weight (80,000,000 to 100,000,000)"),
        ({"weight_left": None, "eta_seconds": None}, "not known yet: too few users were read to tell"),
        ({"users_left": 0}, "nobody is to be read"),
    ],
)
def test_what_is_left_is_told_as_far_as_it_is_known(changes: dict[str, object], left: str) -> None:
    assert dict(_facts(replace(BUSY, **changes)))["left"].endswith(left)  # type: ignore[arg-type]


def test_the_dead_come_first_and_the_rest_are_counted() -> None:
    workers = [text for name, text in _details(BUSY) if name == "worker"]
    assert workers[0] == "machine-0.fleet.example (process 100), lane 192.0.2.0, dead, heard 10 s ago"
    assert workers[1].endswith("alive, at work for 5.0 h, heard 10 s ago")
    assert workers[-1] == "and 10 more"
