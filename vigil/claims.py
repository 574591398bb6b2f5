"""Which user is whose: a worker claims users one by one, and lives by its lease.

Theory of operation. A worker is one process with a row in `backfill_workers`. Claiming a user
writes the worker's id into the user's row (`FOR UPDATE SKIP LOCKED`, so workers never wait for
one another). The worker is alive while it renews its lease *and* holds the advisory lock of its
id, which Postgres frees the moment the session ends: after a `kill -9` the users are free within
seconds (`GRACE_SECONDS`, in which a worker whose connection broke comes back), after a vanished
machine or a partition when the lease runs out. Whoever finds a worker dead deletes its row and
frees its users in one transaction; every commit of fills locks that same row first (the fence), so
a worker that was only asleep can commit nothing any more. If it fell asleep inside a commit, its
sessions are ended first, or its locks would outlive its lease.

What a claim leaves behind is only the claim: rows in memory and in the queue mean nothing until
they are committed, so cancelled, crashed and killed are one and the same recovery.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vigil.address import shard_of, shard_range
from vigil.db import Connection, Link, seconds, sql
from vigil.egress import read_lanes
from vigil.errors import ClaimLost
from vigil.fills import Key, Stream
from vigil.limiter import prices_of
from vigil.settings import Settings
from vigil.sources import Source, main_source

ENROLL_TIMEOUT_SECONDS = 3600.0
"""For reopening every user of a large table; done before the worker has a lease to keep."""

DISCOVERED_AT_ONCE = 10_000
"""Users of `fills` that one statement makes known: 0.1 s, and as many addresses locked for so long."""

LISTED_AT_ONCE = 1000
"""Users named by hand that one claim looks through: keeps the statement small for long lists."""

GRACE_SECONDS = 3.0
"""A worker without a session for so long is dead: a live one looks every second, and reconnects."""

HEARTBEAT_SECONDS = 1.0
"""Between two looks at one's own session; the lease is renewed three times in its length."""

NO_LIMIT = 2**31 - 1
"""Of failed tries: more than any user has."""

POLL_SECONDS = 1.0
"""Between two looks at users in other workers' hands, when nothing else is left to do."""


@dataclass(frozen=True, slots=True)
class Window:
    """[start_ms, end_ms), ms since epoch."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The share of all users that a worker takes: part `index` of `total` of the range of their hashes."""

    index: int = 0
    total: int = 1

    @property
    def range(self) -> tuple[int, int]:
        """The hashes of its users: first, and end (exclusive)."""
        return shard_range(self.index, self.total)


EVERYBODY = Shard()


@dataclass(frozen=True, slots=True)
class Claim:
    """A list of a user's to read from `cursor_ms` to `end_ms` (exclusive); `held` are the keys stored at the cursor."""

    user: str
    cursor_ms: int
    end_ms: int
    held: tuple[Key, ...] = ()
    stream: Stream = Stream.FILLS


class Claims:
    """One worker's identity, lease and claims.

    `users` None means everybody known; `limit` is how many users this run may take; `retry` takes
    failed users however often they have failed; `slices` reads everybody's TWAP slices, not only
    those that are wanted; `source` is where the fills come from, None the exchange. `ask` sends listed
    users that are complete to that source as well, each once for a window; until it has answered, only
    a worker of that source goes on with them. `lanes` are the ids under which this worker takes part in
    each of its lanes, its own first: further rows that live and die with it, and claim nothing.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        worker_id: int,
        window: Window,
        *,
        shard: Shard = EVERYBODY,
        users: Sequence[str] | None = None,
        limit: int | None = None,
        retry: bool = False,
        slices: bool = False,
        source: Source | None = None,
        ask: bool = False,
        lanes: Mapping[int, str] | None = None,
    ) -> None:
        source = source or main_source(settings)
        self.worker_id = worker_id
        names = [lane.name for lane in read_lanes(settings.lane)]
        self._lanes = {worker_id: source.lane(names[0])} if lanes is None else dict(lanes)
        self._slices = slices
        self._source = source.name
        self._overshoot = prices_of(source).overshoot
        self._reads_slices = source.twap
        self._ask = ask
        self._link = link
        self._lease_seconds = settings.lease_seconds
        self._attempts = NO_LIMIT if retry else settings.user_attempts
        self._window = window
        self._shard = shard
        self._mine = None if users is None else [u for u in users if shard_of(u, shard.total) == shard.index]
        self._lists: deque[list[str]] = deque(_split(self._mine) if self._mine is not None else ())
        self._left = limit
        self._nothing_left = self._stopped = False
        self._undiscovered: str | None = None  # users of `fills` behind this address are still to be made known
        self._turn = asyncio.Lock()
        self._place = self._start = (shard.range[0], "")  # shard and address of the last claim

    async def register(self) -> None:
        """Become a worker, and free what dead ones left."""

        async def insert(connection: Connection) -> None:
            lease, host, pid = seconds(self._lease_seconds), socket.gethostname(), os.getpid()
            for worker_id, lane in self._lanes.items():
                if await connection.fetchval(sql("fence"), worker_id) is None:
                    await connection.execute(sql("register_worker"), worker_id, host, pid, lease, lane)

        await self._link.run(insert)
        await self._bury_the_dead()

    async def enroll(self, *, beside: bool = False) -> None:
        """Make this run's users known, and reopen those it should go on with or try again.

        Without a list: every user found in `fills`. `beside` looks only until there is somebody to begin
        with; the caller must see to `discover` then, and `next` waits for whom that may find.
        """
        window = (self._window.start_ms, self._window.end_ms)

        async def enroll(connection: Connection) -> None:
            if self._mine is None:
                await connection.execute(sql("reopen"), *window, *self._shard.range)
                await connection.execute(sql("retry_failed"), *self._shard.range, self._attempts)
                if self._slices:
                    await connection.execute(sql("want_slices"), *self._shard.range)
                return
            for users in _split(self._mine):
                await connection.execute(sql("enroll_listed"), users)
                if self._ask:
                    await connection.execute(sql("ask_source"), users, self._source, self._reads_slices)
                await connection.execute(sql("reopen_listed"), *window, users)
                await connection.execute(sql("retry_listed"), users, self._attempts)
                if self._slices:
                    await connection.execute(sql("want_slices_listed"), users)

        await self._link.run(enroll, timeout=ENROLL_TIMEOUT_SECONDS)
        if self._mine is not None:
            return
        self._undiscovered = ""
        while self._undiscovered is not None and not (beside and await self._any_pending()):
            await self._discover_some(self._link)

    async def discover(self, link: Link) -> int:
        """Make the rest of the users of `fills` known, while others are being read; on a `link` of its own.

        Returns how many were not known before.
        """
        found = 0
        while self._undiscovered is not None:
            found += await self._discover_some(link)
        return found

    async def _discover_some(self, link: Link) -> int:
        async def discover(connection: Connection) -> tuple[str | None, int]:
            chunks = await connection.fetchval(sql("fills_has_chunks"))
            statement = sql("enroll_from_chunks" if chunks else "enroll_from_fills")
            page = await connection.fetchrow(statement, self._undiscovered, DISCOVERED_AT_ONCE)
            assert page is not None  # noqa: S101  an aggregate always has a row
            return page["behind"], page["enrolled"]

        self._undiscovered, found = await link.run(discover, timeout=ENROLL_TIMEOUT_SECONDS)
        return found

    async def _any_pending(self) -> bool:
        async def ask(connection: Connection) -> bool:
            return bool(await connection.fetchval(sql("any_pending"), *self._shard.range))

        return await self._link.run(ask)

    async def count_pending(self, link: Link) -> int:
        """How many users this run will read, as far as known now; on a `link` of its own, for it may take seconds."""
        window, source = (self._window.start_ms, self._window.end_ms), (self._source, self._reads_slices)

        async def count(connection: Connection) -> int:
            if self._mine is None:
                return int(await connection.fetchval(sql("count_pending"), *window, *self._shard.range, *source))
            lists = _split(self._mine)
            return sum([await connection.fetchval(sql("count_listed"), *window, users, *source) for users in lists])

        limit = self._left
        pending = await link.run(count)
        return pending if limit is None else min(pending, limit)

    async def others_weight(self, link: Link) -> int:
        """Weight that other workers may spend a period by now."""
        return int(await link.run(lambda connection: connection.fetchval(sql("others_weight"), list(self._lanes))))

    async def count_failed(self) -> int:
        """How many users of this run are failed, parked ones included."""

        async def count(connection: Connection) -> int:
            if self._mine is None:
                return int(await connection.fetchval(sql("count_failed"), *self._shard.range))
            return sum([await connection.fetchval(sql("count_failed_listed"), users) for users in _split(self._mine)])

        return await self._link.run(count)

    async def count_elsewhere(self) -> dict[str, int]:
        """How many users of this run are left to workers of other sources, by source."""

        async def count(connection: Connection) -> dict[str, int]:
            rows = await connection.fetch(sql("count_elsewhere"), *self._shard.range, self._source, self._mine)
            return {row["source"]: row["users"] for row in rows}

        return await self._link.run(count)

    async def canary(self) -> tuple[str, int, int] | None:
        """A user that has been read, and a millisecond, first and last, to ask for; None if nobody has been yet."""

        async def ask(connection: Connection) -> tuple[str, int, int] | None:
            row = await connection.fetchrow(sql("canary"))
            return None if row is None else (row["user_address"], row["last_ms"], row["last_ms"])

        return await self._link.run(ask)

    async def save_faults(self, faults: Mapping[str, int]) -> None:
        """Store what the exchange did wrong in this worker's life so far, by kind."""
        counted = {str(kind): count for kind, count in faults.items() if count}

        async def save(connection: Connection) -> None:
            await connection.execute(sql("save_faults"), self.worker_id, list(counted), list(counted.values()))

        if counted:
            await self._link.run(save)

    async def next(self) -> Claim | None:
        """The next user of this worker, or None when there is nothing left to do.

        Waits while the only users left are in other workers' hands: they may die yet.
        """
        async with self._turn:
            while not self._nothing_left and not self._stopped and (self._left is None or self._left > 0):
                tried: list[str] = []  # users whose claim may have been committed although we never heard so
                claim = await self._link.run(partial(self._claim, tried))
                if claim is not None:
                    if self._left is not None and claim.stream is Stream.FILLS:
                        self._left -= 1
                    return claim
                if not await self._others_are_busy():
                    break
                await asyncio.sleep(POLL_SECONDS)
                await self._bury_the_dead()
            self._nothing_left = True
            return None

    def stop(self) -> None:
        """Hand out nobody any more: the run has reached a limit."""
        self._stopped = True

    async def prefer(self, users: Sequence[str]) -> None:
        """Of a long list, look at these users of it first."""
        first = [user for user in users if shard_of(user, self._shard.total) == self._shard.index]
        async with self._turn:
            self._lists.extendleft(reversed(_split(first)))

    async def look_again(self) -> bool:
        """Whether there is something to claim after all, once everything claimed so far is committed and judged."""
        async with self._turn:
            self._nothing_left = self._stopped or self._left == 0 or not await self._others_are_busy()
            return not self._nothing_left

    async def keep_lease(self) -> None:
        """Renew the lease until cancelled. Raises: ClaimLost when another worker took over."""

        loop = asyncio.get_running_loop()
        renew_at = loop.time()
        look_at = loop.time() + GRACE_SECONDS

        async def renew(connection: Connection) -> bool:
            nonlocal renew_at
            for worker_id in self._lanes:
                if not await connection.fetchval(sql("hold_worker_lock"), worker_id):
                    renew_at = 0.0  # a dead session of ours has it still: look again at the next heartbeat
            ids, lease = list(self._lanes), seconds(self._lease_seconds)
            return len(await connection.fetch(sql("renew_lease"), ids, lease)) == len(ids)

        reconnects = -1
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, self._lease_seconds / 3))
            if not self._link.connected or self._link.reconnects != reconnects or loop.time() >= renew_at:
                renew_at = loop.time() + self._lease_seconds / 3
                alive = await self._link.run(renew)
                reconnects = self._link.reconnects
                if not alive:
                    raise claim_lost()
            if loop.time() >= look_at:
                look_at = loop.time() + GRACE_SECONDS
                await self._bury_the_dead()

    async def release(self) -> None:
        """Free what this worker still holds and cease to be one. Idempotent."""

        async def retire(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(sql("retire_workers"), list(self._lanes), self._overshoot)
                await connection.execute(sql("release_orphans"))

        await self._link.run(retire, patience=2)

    async def _claim(self, tried: list[str], connection: Connection) -> Claim | None:
        window = self._window
        async with connection.transaction():
            if await connection.fetchval(sql("fence"), self.worker_id) is None:
                raise claim_lost()
            user: str | None = None
            for earlier in tried:
                if await connection.fetchval(sql("claimed_by"), earlier) == self.worker_id:
                    user = earlier
            if user is None:
                user = await (self._pick(connection) if self._mine is None else self._pick_listed(connection))
            if user is None:
                return None
            tried.append(user)
            row = await connection.fetchrow(
                sql("claim"), user, self.worker_id, window.start_ms, window.end_ms, self._source, self._slices
            )
            assert row is not None  # noqa: S101  it is locked by this transaction
            stream = Stream.FILLS if row["reads_fills"] else Stream.SLICES
            from_ms: int = row[f"{stream}_from_ms"]
            held: list[Key] = []
            if row[f"holds_{stream}"]:
                records = await connection.fetch(sql("held_keys"), user, from_ms, stream is Stream.SLICES)
                held = [Key(from_ms, r["coin"], r["oid"], r["tid"], r["side"]) for r in records]
        return Claim(user, from_ms, row[f"{stream}_end_ms"], tuple(held), stream)

    async def _pick(self, connection: Connection) -> str | None:
        """The most urgent user; else the next one of the shard behind the last, round to where it begins."""
        window, end = (self._window.start_ms, self._window.end_ms), self._shard.range[1]
        source = (self._source, self._reads_slices)
        urgent: str | None = await connection.fetchval(sql("pick_urgent"), *window, *self._shard.range, *source)
        if urgent is not None:
            return urgent
        for place in dict.fromkeys((self._place, self._start)):
            row = await connection.fetchrow(sql("pick_pending"), *window, *place, end, *source)
            if row is not None:
                self._place = (row["shard"], row["user_address"])
                return self._place[1]
        return None

    async def _pick_listed(self, connection: Connection) -> str | None:
        while self._lists:
            window, source = self._window, (self._source, self._reads_slices)
            user: str | None = await connection.fetchval(
                sql("pick_listed"), window.start_ms, window.end_ms, self._lists[0], *source
            )
            if user is not None:
                return user
            self._lists.popleft()
        return None

    async def _others_are_busy(self) -> bool:
        """Whether users of this run are in other hands, still to be found, or there after all; then all are looked
        at again.

        Another run may have read some more narrowly meanwhile, and a row that is locked for a moment is
        passed over by a claim. Not those that only a worker of another source may go on with.
        """
        window, source = (self._window.start_ms, self._window.end_ms), (self._source, self._reads_slices)
        undiscovered = self._undiscovered is not None  # before looking: those found meanwhile are seen

        async def ask(connection: Connection) -> bool:
            if self._mine is None:
                left = await connection.fetchrow(
                    sql("others_users"), self.worker_id, *self._shard.range, *window, *source
                )
                assert left is not None  # noqa: S101  it always has a row
                if left["narrower"]:
                    await connection.execute(sql("reopen"), *window, *self._shard.range)
                return bool(undiscovered or left["narrower"] or left["busy"])
            busy = []
            for users in _split(self._mine):
                await connection.execute(sql("reopen_listed"), *window, users)
                if await connection.fetchval(sql("others_listed"), self.worker_id, users, *window, *source):
                    busy.append(users)
            self._lists = deque(busy)
            return bool(busy)

        return await self._link.run(ask)

    async def _bury_the_dead(self) -> None:
        async def bury(connection: Connection) -> None:
            await connection.execute(sql("end_expired_sessions"), self.worker_id)
            async with connection.transaction():
                found = await connection.fetch(sql("suspect_workers"), list(self._lanes), seconds(GRACE_SECONDS))
                dead = [row["worker_id"] for row in found if row["dead"]]
                await connection.execute(sql("retire_workers"), dead, self._overshoot)
                await connection.execute(sql("release_orphans"))

        await self._link.run(bury)


async def users_to_ask(connection: Connection, verdicts: Sequence[str], source: str | None) -> list[str]:
    """Users with one of these verdicts, by address, and those that `source` was being asked for when it was stopped."""
    return [row["user_address"] for row in await connection.fetch(sql("users_to_ask"), verdicts, source)]


def session_name(worker_id: int) -> dict[str, str]:
    """For `Link(server_settings=...)`: by this name others can end the sessions of a worker that fell asleep."""
    return {"application_name": f"vigil-backfill {worker_id}"}


def claim_lost() -> ClaimLost:
    return ClaimLost(
        "This worker slept through its lease and another took over its users; it committed nothing since.",
        hint="Run the same command again.",
    )


def new_worker_id() -> int:
    """A random id, also the key of the worker's advisory lock."""
    return secrets.randbelow(2**62) + 1


def hold_worker_lock(*worker_ids: int) -> Callable[[Connection], Awaitable[None]]:
    """For `Link(prepare=...)`: take the worker's lock on each new session, and those of its lanes."""

    async def hold(connection: Connection, worker_id: int) -> None:
        for _ in range(10):  # another worker may be trying whether it is free, for a moment
            if await connection.fetchval(sql("hold_worker_lock"), worker_id):
                await connection.execute(sql("clear_suspicion"), worker_id)
                return
            await asyncio.sleep(0.05)

    async def prepare(connection: Connection) -> None:
        for worker_id in worker_ids:
            await hold(connection, worker_id)

    return prepare


def _split(users: Sequence[str]) -> list[list[str]]:
    return [list(users[i : i + LISTED_AT_ONCE]) for i in range(0, len(users), LISTED_AT_ONCE)]
