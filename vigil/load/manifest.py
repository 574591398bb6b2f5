"""What is in of each file, and the transaction of a batch: rows, users, verdicts to renew, and how far the file is.

The transaction, in order: the fence (the file is still this load's, and stands where this batch begins), the
rows as every writer stores them, the users, the file's progress. Users whose rows are new await their
verdict again; a judge who is at work on one is waited for, because it has not seen them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vigil.archives import Batch, Place
from vigil.archives.batch import BEGINNING
from vigil.db import Connection, Link, sql
from vigil.errors import ClaimLost, StoreError
from vigil.load.places import Item
from vigil.settings import Settings
from vigil.store import WRITER_SESSION, Committed, meets_rows, prepare_staging, store_rejected, store_rows

KNOWN_AT_ONCE = 1_000
CACHED_USERS = 200_000
"""Users that need not be made known again, remembered by each job; some 30 MB."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file that was here before, as it lies there: what of it is in."""

    complete: bool
    bytes_done: int
    lines_done: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    file_id: int
    item: Item
    scope: str
    place: Place


@dataclass(slots=True)
class Taken:
    """A file that is this load's: where it may go on, and where it stands."""

    item: Item
    file_id: int
    complete: bool
    place: Place
    candidates: list[_Candidate] = field(default_factory=list)

    @property
    def points(self) -> list[Place]:
        return [one.place for one in self.candidates]


class Manifest:
    """One job's link: its locks and its batches. `loader` is a number of its own."""

    def __init__(self, dsn: str, settings: Settings, loader: int, scope: str) -> None:
        self._loader, self._scope = loader, scope
        self._locked: str | None = None
        self._users: set[str] = set()
        session = {**WRITER_SESSION, "application_name": f"vigil-load {loader}"}
        self._link = Link(dsn, settings, prepare=self._prepare, server_settings=session)

    async def close(self) -> None:
        await self._link.close()

    async def _prepare(self, connection: Connection) -> None:
        await prepare_staging(connection)
        if self._locked is not None:  # lost with the session before; who took it meanwhile is told by the fence
            await connection.fetchval(sql("load_lock"), self._locked)

    async def known(self, items: Sequence[Item]) -> dict[Item, Known]:
        """What is known of the files as they lie there."""
        known: dict[Item, Known] = {}
        for first in range(0, len(items), KNOWN_AT_ONCE):
            some = items[first : first + KNOWN_AT_ONCE]
            columns = [[getattr(one, name) for one in some] for name in ("name", "size_bytes", "version")]
            rows = await self._link.run(partial(self._fetch_known, columns))
            for row in rows:
                item = Item(row["name"], row["size_bytes"], row["version"])
                if item not in known or not known[item].complete:
                    known[item] = Known(row["complete"], row["bytes_done"], row["lines_done"])
        return known

    async def _fetch_known(self, columns: list[list[Any]], connection: Connection) -> list[Any]:
        return await connection.fetch(sql("load_known"), *columns, self._scope)

    async def lock(self, item: Item) -> bool:
        """Whether nobody else is loading the file. By its last name and size: machines may see it by other paths."""
        key = f"{item.name.rpartition('/')[2]} {item.size_bytes}"
        if await self._link.run(lambda connection: connection.fetchval(sql("load_lock"), key)):
            self._locked = key
            return True
        return False

    async def unlock(self) -> None:
        key, self._locked = self._locked, None
        if key is not None and self._link.connected:
            with suppress(StoreError):  # the session is gone then, and the lock with it
                await self._link.run(lambda connection: connection.fetchval(sql("load_unlock"), key), patience=0)

    async def take(self, item: Item, *, again: bool) -> Taken:
        """Make the locked file this load's. With `again` it has nowhere to go on."""

        async def attempt(connection: Connection) -> Taken:
            found = (
                [] if again else await connection.fetch(sql("load_candidates"), item.name, item.size_bytes, self._scope)
            )
            row = await connection.fetchrow(
                sql("load_take"), item.name, item.size_bytes, item.version, self._scope, self._loader
            )
            assert row is not None  # noqa: S101  it returns the row it makes or takes
            candidates = [
                _Candidate(
                    one["file_id"], Item(one["name"], one["size_bytes"], one["version"]), one["scope"], _place(one)
                )
                for one in found
            ]
            return Taken(item, row["file_id"], row["complete"], _place(row), candidates)

        return await self._link.run(attempt)

    async def go_on(self, taken: Taken, place: Place) -> None:
        """The file's text agrees with what is known up to `place`: its row tells so from now on."""
        if place == taken.place and not taken.complete:
            return
        like = [one for one in taken.candidates if one.place == place]
        own = [one for one in like if one.file_id == taken.file_id]
        old = next(iter(own or like), None)
        # The row of a file read in full still tells so when a part of it is asked for.
        grown = old is not None and old.item.name == taken.item.name and old.scope == self._scope

        async def attempt(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(
                    sql("load_place"), taken.file_id, self._loader, *place, old.file_id if old else None
                )
                if old is not None and grown:
                    await connection.execute(sql("load_replaced"), old.file_id, taken.file_id)

        await self._link.run(attempt)
        taken.place, taken.complete = place, False

    async def commit(self, taken: Taken, batch: Batch) -> Committed:
        """Apply a batch, exactly once. Raises: ClaimLost when another load has taken the file over, StoreError."""
        applied: list[Committed] = []

        async def attempt(connection: Connection) -> Committed:
            met = await meets_rows(connection, batch.stretches)
            async with connection.transaction():
                row = await connection.fetchrow(sql("load_fence"), taken.file_id, self._loader)
                if row is None:
                    raise _lost(taken.item)
                stands = row["bytes_done"]
                if applied and stands == batch.place.bytes_done != taken.place.bytes_done:
                    return applied[-1]  # only the answer to COMMIT was lost
                if stands != taken.place.bytes_done:
                    raise _lost(taken.item)
                applied.append(await self._apply(connection, taken, batch, met=met))
            return applied[-1]

        committed = await self._link.run(attempt)
        taken.place = batch.place
        self._remember(batch.users)
        return committed

    async def store(self, batch: Batch) -> Committed:
        """Apply a batch of what has no name to be known again by."""

        async def attempt(connection: Connection) -> Committed:
            met = await meets_rows(connection, batch.stretches)
            async with connection.transaction():
                return await self._store(connection, batch, met=met)

        committed = await self._link.run(attempt)
        self._remember(batch.users)
        return committed

    async def fail(self, taken: Taken, why: str) -> None:
        """Note why the file can't be read."""
        await self._link.run(lambda connection: connection.execute(sql("load_fail"), taken.file_id, self._loader, why))

    async def _apply(self, connection: Connection, taken: Taken, batch: Batch, *, met: bool | None) -> Committed:
        done = await self._store(connection, batch, met=met)
        counts = (done.received, done.inserted, done.updated, done.already_there, done.refused, batch.passed_over)
        complete = batch.last and batch.error is None
        await connection.execute(sql("load_advance"), taken.file_id, *batch.place, *counts, complete, batch.error)
        return done

    async def _store(self, connection: Connection, batch: Batch, *, met: bool | None) -> Committed:
        rows = await store_rows(connection, batch.lines, batch.stretches, met=met)
        rows.check(batch.rows)
        rejected = [*batch.rejected, *rows.refused]
        newly_rejected = await store_rejected(connection, rejected)
        await self._tell_of_users(connection, batch.users, batch.users if rows.updated else list(rows.inserted))
        received = batch.rows + len(batch.rejected)
        return Committed(
            received, rows.inserted.total(), rows.updated, rows.already_there, len(rejected), newly_rejected
        )

    async def _tell_of_users(self, connection: Connection, users: Sequence[str], renewed: Sequence[str]) -> None:
        new = sorted(user for user in users if user not in self._users)
        if new:
            await connection.execute(sql("load_enroll"), new)
        if renewed and await connection.fetchval(sql("load_hold_users"), sorted(renewed)):
            await connection.execute(sql("load_unjudge"), sorted(renewed))

    def _remember(self, users: Sequence[str]) -> None:
        if len(self._users) > CACHED_USERS:
            self._users.clear()
        self._users.update(users)


def _place(row: Any) -> Place:
    done, lines, digest = row["bytes_done"], row["lines_done"], row["prefix_digest"]
    return Place(done, lines, digest) if digest is not None else BEGINNING


def _lost(item: Item) -> ClaimLost:
    return ClaimLost(f"Another load has taken {item.name} over.", hint="Nothing is lost: it goes on with the file.")
