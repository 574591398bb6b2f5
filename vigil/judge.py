"""Judges users as they finish: gathers the evidence in the database, decides with `verdict`, stores both.

Set-based: the rows never come here. A batch of users is picked (`FOR UPDATE SKIP LOCKED`, so that
workers judge different ones), judged and stored in one transaction; a user whose verdict could be
mended by what its TWAP orders executed is sent back for those. Killed at any moment, the users of
the batch still await their verdict.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from vigil.cursor import Gap, GapKind
from vigil.db import Connection, Link, sql
from vigil.errors import StatementTooSlow, StoreError, StoreUnavailable
from vigil.verdict import Cause, CoinEvidence, UserFacts, UserVerdict, Verdict, verdict

log = logging.getLogger(__name__)

USERS_AT_ONCE = 100
"""Judged in one transaction: some 10 ms each, and a few thousand rows of the largest sort."""

PAUSE_SECONDS = 0.5
"""Between two looks for users that have finished."""

PAUSE_LOOKS = 10
"""... and so many times as long as a look that found none took: with a long list of users it takes a while."""


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
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            if not await self._judge(USERS_AT_ONCE):
                await asyncio.sleep(max(PAUSE_SECONDS, PAUSE_LOOKS * (now() - began)))

    async def judge_all(self) -> None:
        """Judge until nobody awaits a verdict."""
        while await self._judge(USERS_AT_ONCE):
            pass

    async def _judge(self, limit: int) -> int:
        """Judge so many users at most; returns how many. One that can't be judged is told so, and holds up nobody."""
        picked: list[str] = []
        try:
            return await self._link.run(partial(self._judge_some, limit, picked), wait_for_slow=False)
        except StoreError as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, StatementTooSlow):
                raise
            reason = str(error)
        if limit == 1:
            await self._link.run(partial(self._give_up, picked, reason))
            return len(picked)
        return sum([await self._judge(1) for _ in range(limit)])

    async def _judge_some(self, limit: int, picked: list[str], connection: Connection) -> int:
        async with connection.transaction():
            if self._users is None:
                rows = await connection.fetch(sql("judge_next"), *self._shards, limit)
            else:
                rows = await connection.fetch(sql("judge_listed"), self._users, limit)
            picked[:] = [row["user_address"] for row in rows]
            if picked:
                await save(connection, await judge(connection, picked), ask_for_slices=self._ask_for_slices)
        return len(picked)

    async def _give_up(self, users: Sequence[str], reason: str, connection: Connection) -> None:
        log.warning("%s can't be judged: %s", ", ".join(users), reason)
        why = f"The evidence could not be gathered: {reason}"
        facts = [UserFacts(user, completed=True, window_start_ms=0, window_end_ms=0) for user in users]
        verdicts = [
            UserVerdict(one.user_address, Verdict.UNVERIFIED, (Cause.NOT_JUDGED,), why, (), one) for one in facts
        ]
        async with connection.transaction():
            await save(connection, verdicts, ask_for_slices=False)


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
