"""Judges users as they finish: gathers the evidence in the database, decides with `verdict`, stores both.

Set-based: the rows never come here. A batch of users is picked (`FOR UPDATE SKIP LOCKED`, so that
workers judge different ones), judged and stored in one transaction; a user whose verdict could be
mended by what its TWAP orders executed is sent back for those. Killed at any moment, the users of
the batch still await their verdict.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from vigil.cursor import Gap, GapKind
from vigil.db import Connection, Link, sql
from vigil.verdict import Cause, CoinEvidence, UserFacts, UserVerdict, verdict

USERS_AT_ONCE = 100
"""Judged in one transaction: some 10 ms each, and a few thousand rows of the largest sort."""

PAUSE_SECONDS = 0.5
"""Between two looks for users that have finished."""


class Judge:
    """Judges the completed users of the shards [first, end), or those listed."""

    def __init__(
        self, link: Link, shards: tuple[int, int], *, users: Sequence[str] | None = None, ask_for_slices: bool = True
    ) -> None:
        self._link = link
        self._shards = shards
        self._users = None if users is None else list(users)
        self._ask_for_slices = ask_for_slices

    async def keep(self) -> None:
        """Judge whoever finishes, until cancelled. Raises: StoreUnavailable, StoreError."""
        while True:
            await self.judge_all()
            await asyncio.sleep(PAUSE_SECONDS)

    async def judge_all(self) -> None:
        """Judge until nobody awaits a verdict."""
        while await self._link.run(self._judge_some):
            pass

    async def _judge_some(self, connection: Connection) -> int:
        async with connection.transaction():
            if self._users is None:
                picked = await connection.fetch(sql("judge_next"), *self._shards, USERS_AT_ONCE)
            else:
                picked = await connection.fetch(sql("judge_listed"), self._users, USERS_AT_ONCE)
            users = [row["user_address"] for row in picked]
            if users:
                await save(connection, await judge(connection, users), ask_for_slices=self._ask_for_slices)
        return len(users)


async def judge(connection: Connection, users: Sequence[str]) -> list[UserVerdict]:
    """The verdicts on `users`, from what the database holds now. In the caller's transaction, stores nothing."""
    evidence: defaultdict[str, list[CoinEvidence]] = defaultdict(list)
    for row in await connection.fetch(sql("verdict_evidence"), users):
        columns = dict(row)
        evidence[columns.pop("user_address")].append(CoinEvidence(**columns))
    verdicts = []
    for row in await connection.fetch(sql("verdict_facts"), users):
        columns = dict(row)
        spans = zip(*(columns.pop(f"gaps_{name}") for name in ("from_ms", "to_ms", "kind")), strict=True)
        gaps = tuple(Gap(from_ms, to_ms, GapKind(kind)) for from_ms, to_ms, kind in spans)
        facts = UserFacts(**columns, gaps=gaps)
        verdicts.append(verdict(facts, evidence[facts.user_address]))
    return verdicts


async def save(connection: Connection, verdicts: Sequence[UserVerdict], *, ask_for_slices: bool) -> None:
    """Store verdicts and evidence; send users back for their TWAP slices where those might explain a flaw."""
    coins = [(one.user_address, coin) for one in verdicts for coin in one.coins]
    await connection.execute(
        sql("save_coin_verdicts"),
        [one.user_address for one in verdicts],
        [user for user, _ in coins],
        [coin.coin for _, coin in coins],
        [coin.verdict for _, coin in coins],
        [json.dumps(coin.causes) for _, coin in coins],
        [coin.why for _, coin in coins],
        [json.dumps(asdict(coin.evidence), default=str) for _, coin in coins],
    )
    await connection.execute(
        sql("save_user_verdicts"),
        [one.user_address for one in verdicts],
        [one.verdict for one in verdicts],
        [json.dumps(one.causes) for one in verdicts],
        [one.why for one in verdicts],
        [one.notional for one in verdicts],
        [one.facts.rows_after_window for one in verdicts],
        [ask_for_slices and Cause.TWAP in one.causes for one in verdicts],
    )
