"""The evidence that one statement gathers for many users is what the fold over their rows finds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from tests.kit.backfill import tell
from tests.kit.loop import run
from tests.pure.test_verdict import (
    END,
    KINDS,
    OTHERS,
    PERPS,
    START,
    Event,
    a_first_millisecond_of_two_endpoints,
    recorded,
    row_of,
    rows_of,
    two_orders_of_one_request_in_2023,
)
from vigil.cursor import Gap, GapKind
from vigil.db import sql
from vigil.fills import decode_page
from vigil.verdict import CoinEvidence, Row, UserFacts, agree, gather

COLUMNS = (
    "user_address", "time", "coin", "side", "px", "sz", "start_position", "oid", "tid", "hash", "crossed", "seq",
    "twap_id", "block_time", "dir",
)  # fmt: skip
DIRS = ("Open Long", "Long > Short", "Settlement", "Liquidated Cross Long", "Auto-Deleveraging", "Net Child Vaults")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def address(number: int) -> str:
    return f"0x{number:040x}"


async def store(connection: asyncpg.Connection[asyncpg.Record], histories: Mapping[str, Sequence[Row]]) -> None:
    records = []
    for user, rows in histories.items():
        for place, row in enumerate(rows):
            time = EPOCH + timedelta(milliseconds=row.time_ms)
            records.append(
                (
                    user, time, row.coin, row.side, row.px, row.sz, row.start_position, row.oid, row.tid, row.hash,
                    row.crossed, row.seq, row.twap_id, time if row.archived else None, DIRS[place % len(DIRS)],
                )
            )  # fmt: skip
    await connection.copy_records_to_table("fills", records=records, columns=list(COLUMNS))


async def evidence_of(
    connection: asyncpg.Connection[asyncpg.Record], users: Iterable[str]
) -> dict[str, list[CoinEvidence]]:
    found: dict[str, list[CoinEvidence]] = {user: [] for user in users}
    for record in await connection.fetch(sql("verdict_evidence"), list(found)):
        columns = dict(record)
        found[columns.pop("user_address")].append(CoinEvidence(**columns))
    return found


def differences(one: CoinEvidence, other: CoinEvidence) -> Any:
    """None if both say the same. Of positions that agree, either may be named: they are prints of one."""

    def same(a: Decimal | None, b: Decimal | None) -> bool:
        return a is b if a is None or b is None else agree(a, b)

    positions = ("first_position", "last_position", "missing")
    if all(same(getattr(one, name), getattr(other, name)) for name in positions):
        other = replace(other, **{name: getattr(one, name) for name in positions})
    return None if one == other else (one, other)


async def compare(url: str, histories: Mapping[str, Sequence[Row]]) -> dict[str, list[CoinEvidence]]:
    """The statement against the fold, user by user and coin by coin."""
    connection = await asyncpg.connect(url)
    try:
        await store(connection, histories)
        found = await evidence_of(connection, histories)
    finally:
        await connection.close()
    for user, rows in histories.items():
        expected = gather(rows)
        assert [one.coin for one in found[user]] == [one.coin for one in expected]
        for one, other in zip(found[user], expected, strict=True):
            assert differences(one, other) is None, (user, rows)
    return found


def nasty(chance: random.Random) -> list[Row]:
    """A history of every kind of row, some lost, some without order or position."""
    coins = chance.sample([*PERPS, *OTHERS], chance.randint(1, 3))
    kinds = chance.sample(KINDS, chance.randint(1, len(KINDS)))
    told = [
        Event(
            chance.choice([0, 0, 0, 1, 5]),
            chance.choice(coins),
            chance.choice([-3, -2, -1, 1, 2, 3]),
            chance.choice(kinds),
        )
        for _ in range(chance.randint(1, 40))
    ]
    rows = rows_of(told, opened=chance.choice([0, 0, 3, -75529253]))
    if chance.random() < 0.5:
        rows = rows[chance.randint(0, 5) :]
    losses, unknown, blind = chance.choice([0, 0, 0.1]), chance.choice([0, 0, 0.3]), chance.choice([0, 0, 0, 0.05])
    rows = [row for row in rows if chance.random() >= losses]
    rows = [row._replace(seq=None) if chance.random() < unknown else row for row in rows]
    rows = [row._replace(start_position=None) if chance.random() < blind else row for row in rows]
    return [row._replace(tid=0, crossed=None) if row.coin in OTHERS and row.side == "A" else row for row in rows]


def test_the_statement_finds_what_the_fold_finds_in_nasty_histories(migrated_url: str) -> None:
    chance = random.Random(4)
    histories = {address(number): nasty(chance) for number in range(1500)}
    found = run(compare(migrated_url, histories))
    coins = [one for evidence in found.values() for one in evidence if one.chained]
    # The comparison would prove little if these histories had nothing to find.
    for wanted in ("broken", "self_trades", "blind_rows", "unsequenced_rows", "twap_rows", "archive_rows"):
        assert sum(getattr(one, wanted) > 0 for one in coins) > 30, wanted
    assert sum(one.broken == 0 and one.unsequenced_rows > 0 and one.rows > 5 for one in coins) > 30


def test_a_burst_of_one_millisecond_without_order_closes(migrated_url: str) -> None:
    """The largest burst seen of one user has 118 fills."""
    chance = random.Random(5)
    lots = [chance.choice([-2, -1, 1, 2]) for _ in range(118)]
    rows = rows_of([Event(0, "BTC", one, "archive") for one in lots])
    chance.shuffle(rows)
    rows = [row._replace(tid=place, oid=place) for place, row in enumerate(rows, start=1)]
    (one,) = run(compare(migrated_url, {address(1): rows}))[address(1)]
    assert (one.links, one.broken, one.first_position) == (117, 0, Decimal(0))


def test_peculiar_milliseconds_give_the_same_evidence(migrated_url: str) -> None:
    histories = [a_first_millisecond_of_two_endpoints(), two_orders_of_one_request_in_2023()]
    found = run(compare(migrated_url, {address(number): rows for number, rows in enumerate(histories)}))
    assert [(one.broken, one.self_trades) for evidence in found.values() for one in evidence] == [(0, 0), (1, 0)]


def test_recorded_histories_give_the_same_evidence(migrated_url: str, real_fills: Path) -> None:
    files = sorted(real_fills.glob("*user_fills_*0x*.json")) + sorted(real_fills.glob("twap_slice_fills_*.json"))
    histories = {address(place): recorded(path, newest_first=True) for place, path in enumerate(files)}
    served = sorted(json.loads((real_fills / "user_fills_2023.json").read_text()), key=lambda row: int(row["time"]))
    histories[address(99)] = [row_of(fill) for fill in decode_page(json.dumps(served).encode())]
    found = run(compare(migrated_url, histories))
    assert sum(one.self_trades for one in found[address(99)]) == 83


def test_users_without_rows_have_no_evidence_and_disturb_no_others(migrated_url: str) -> None:
    async def scenario() -> None:
        connection = await asyncpg.connect(migrated_url)
        try:
            rows = rows_of([Event(1, "BTC", 1, "api")] * 3)
            await store(connection, {address(1): rows, address(2): rows})
            found = await evidence_of(connection, [address(1), address(3)])
            assert found == {address(1): gather(rows), address(3): []}
            assert await evidence_of(connection, []) == {}
        finally:
            await connection.close()

    run(scenario())


def test_the_facts_of_a_user_are_its_window_its_gaps_and_what_came_after(migrated_url: str) -> None:
    async def scenario() -> list[UserFacts]:
        known = "INSERT INTO backfill_progress (user_address, completed, completed_at, window_start_ms, window_end_ms)"
        await tell(
            migrated_url, f"{known} VALUES ($1, true, $2, 7, $3)", address(1), EPOCH + timedelta(days=20000), END
        )
        await tell(
            migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ($1), ($2)", address(2), address(3)
        )
        for kind in GapKind:
            gap = "INSERT INTO backfill_gaps (user_address, from_ms, to_ms, kind) VALUES ($1, $2, $3, $4)"
            await tell(migrated_url, gap, address(1), START, START + 1, str(kind))
        await tell(
            migrated_url,
            "INSERT INTO rejected_fills (user_address, raw_sha256, raw, reason)"
            " SELECT $1, sha256(n::text::bytea), n::text, 'odd' FROM generate_series(1, 3) AS n",
            address(1),
        )
        connection = await asyncpg.connect(migrated_url)
        try:
            around = [Event(0, "BTC", 1, "api"), Event(1, "BTC", 1, "archive"), Event(1, "@107", 1, "archive")]
            await store(connection, {address(1): rows_of(around, start_ms=END - 1)})
            records = await connection.fetch(sql("verdict_facts"), [address(1), address(2)])
        finally:
            await connection.close()
        return sorted((facts_of(dict(record)) for record in records), key=lambda facts: facts.user_address)

    gaps = tuple(Gap(START, START + 1, kind) for kind in sorted(GapKind))
    assert run(scenario()) == [
        UserFacts(address(1), True, 7, END, 20000 * 86_400_000, rows_after_window=2, gaps=gaps, rejected_rows=3),
        UserFacts(address(2), False, 0, 0),
    ]


def facts_of(columns: dict[str, Any]) -> UserFacts:
    spans = zip(columns.pop("gaps_from_ms"), columns.pop("gaps_to_ms"), columns.pop("gaps_kind"), strict=True)
    return UserFacts(**columns, gaps=tuple(Gap(begin, end, GapKind(kind)) for begin, end, kind in spans))
