"""Grafana's dashboard against a real database: every question has an answer of the shape its panel draws."""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from itertools import combinations
from typing import Any

import asyncpg
import pytest

from tests.kit.database import REPOSITORY
from tests.kit.loop import run

DASHBOARD: dict[str, Any] = json.loads((REPOSITORY / "grafana" / "dashboards" / "vigil.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

ROWS = """
INSERT INTO fills (user_address, time, coin, side, px, sz, closed_pnl, fee, fee_token, crossed, oid, tid)
SELECT '0x' || repeat('ab', 20), timestamptz '2024-03-01' + n * interval '7 hours', 'C' || n % 10, 'B', 2.5, n, 1, 0.1,
    'USDC', true, n, n
FROM generate_series(1, 100) AS n;
INSERT INTO backfill_progress
    (user_address, completed, completed_at, failed_at, last_error, verdict, judged_at, fills_count)
VALUES ('0x' || repeat('ab', 20), true, now(), NULL, NULL, 'complete', now(), 100),
    ('0x' || repeat('cd', 20), false, NULL, now(), 'refused', NULL, NULL, 0);
INSERT INTO backfill_workers (worker_id, host, pid, lane, lease_expires_at) VALUES (1, 'h', 1, 'l', now() + '1 hour');
INSERT INTO backfill_faults (kind, worker_id, count) VALUES ('throttled', 1, 3);
INSERT INTO backfill_gaps (user_address, from_ms, to_ms, kind) VALUES ('0x' || repeat('ab', 20), 1, 2, 'retention');
INSERT INTO rejected_fills (user_address, raw_sha256, raw, reason) VALUES ('0x' || repeat('ab', 20), 'x', '{}', 'odd');
"""


def as_grafana_asks(query: str) -> str:
    """The query with the one macro that the dashboard uses written out."""
    plain = re.sub(
        r"\$__timeFilter\(([\w.]+)\)", r"\1 BETWEEN '2024-01-01T00:00:00Z' AND '2024-12-31T00:00:00Z'", query
    )
    assert "$" not in plain
    return plain


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_is_answered_with_what_it_draws(migrated_url: str, panel: dict[str, Any]) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(migrated_url)
        try:
            await connection.execute(ROWS)
            for target in panel["targets"]:
                async with connection.transaction(readonly=True):  # Grafana's role may do nothing else
                    rows = await connection.fetch(as_grafana_asks(target["rawSql"]))
                assert rows
                if target["format"] == "time_series":
                    assert {type(row["time"]) for row in rows} == {datetime}
                    numbers = [value for row in rows for name, value in row.items() if name not in ("time", "metric")]
                    assert {type(value) for value in numbers} <= {int, float, Decimal}
                    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
                if panel["type"] == "stat":
                    assert len(rows) == len(rows[0]) == 1
                    assert rows[0][0] > 0
        finally:
            await connection.close()

    run(scenario())


def test_every_panel_is_answered_by_an_empty_database_too(migrated_url: str) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(migrated_url)
        try:
            for panel in PANELS:
                for target in panel["targets"]:
                    await connection.fetch(as_grafana_asks(target["rawSql"]))
        finally:
            await connection.close()

    run(scenario())


def test_panels_lie_side_by_side_and_ask_the_database_chosen_above() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    (variable,) = DASHBOARD["templating"]["list"]
    sources = [source["datasource"] for panel in PANELS for source in (panel, *panel["targets"])]
    assert all(source == {"type": variable["query"], "uid": f"${{{variable['name']}}}"} for source in sources)
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
