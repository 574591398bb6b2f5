"""Repairing: what an audit finds missing is stored, and nothing else is fetched.

Theory of operation. A user is claimed, looked at (see `audit`), and what the answers held that the table
lacks, or has otherwise, is committed: the page that shows a hole is the page that fills it, so nothing is
asked for twice. All rows of a user go in one batch with its progress, as a run's do. Rows that the table has
and the exchange does not serve are left alone.

The claim: a run never claims a user that another worker holds, and a user that a repair leaves behind when
it dies is one of whom a run would read one millisecond (`sql/audit_claim.sql`); the next repair gives it
back as it was. So killed at any moment, a repair has either done a user or not begun it.

A recorded gap is closed when the span was read again whole: no gap was met in it, a row at or before its
beginning was served, and what the table has there came back. A gap that retention made stays for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from vigil import claims
from vigil.audit import Audit, raw_digest, refused_text
from vigil.cursor import Gap, GapKind
from vigil.db import Connection, Link, sql
from vigil.errors import EXIT_DIFFERENCES, EXIT_DONE, EXIT_SOME_USERS_FAILED, VigilError
from vigil.fills import Fill, Stream
from vigil.judge import Judge
from vigil.settings import Settings
from vigil.store import WRITER_SESSION, Chunk, Store, prepare_staging
from vigil.windows import Account, Look, Selection, Span, Summary, Target, joined

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 3 * claims.GRACE_SECONDS
"""How long to wait at the end for users in other hands: those of a worker that was killed are free by then."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a user was before it was claimed: when it was read to its end, and judged."""

    judged_at: datetime | None
    completed_at: datetime | None


@dataclass(slots=True)
class Repaired(Summary):
    """What a repair found and did."""

    @property
    def exit_code(self) -> int:
        """Differences are left where the table has more, the exchange no longer reaches, or the database refuses."""
        if self.signal is not None:
            return 128 + self.signal
        if self.extra or self.gaps_left or self.refused:
            return EXIT_DIFFERENCES
        return EXIT_SOME_USERS_FAILED if self.users_failed else EXIT_DONE


class Repair(Audit):
    """Looks at what `selection` names and at every gap recorded of those users, and stores what is missing."""

    def __init__(
        self, settings: Settings, dsn: str, selection: Selection, tell: Callable[[Account], None] = lambda _: None
    ) -> None:
        super().__init__(settings, dsn, selection, tell)
        self.summary = Repaired(selection.choice, selection.seed)
        writing = {**self._worker.session, **WRITER_SESSION}
        self._writing = Link(dsn, settings, prepare=prepare_staging, server_settings=writing)
        self._store = Store(self._writing, self._worker.id, lease_seconds=settings.lease_seconds)
        self._committing = asyncio.Lock()  # the store numbers its batches: one at a time
        self._put_off: list[Target] = []
        self._to_judge: set[str] = set()

    async def execute(self) -> Summary:
        """Repair until all is done, or to a signal. Raises: VigilError; every user is then repaired or untouched."""
        try:
            return await super().execute()
        finally:
            try:
                await self._resume()  # the worker is closed: what it still held is nobody's
            except VigilError as error:
                log.debug("left to the next repair or run: %s", error)
            finally:
                await self._writing.close()

    async def _work(self) -> None:
        await self._resume()
        await super()._work()
        await self._wait_for_others()
        judge = Judge(self._reading, claims.EVERYBODY.range, users=sorted(self._to_judge), ask_for_slices=False)
        await judge.judge_all()

    async def _resume(self) -> None:
        """Give back what a repair that died or was stopped had claimed."""
        rows = await self._writing.run(lambda connection: connection.fetch(sql("audit_resume")))
        self._to_judge.update(row["user_address"] for row in rows)

    async def _wait_for_others(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while self._put_off:
            late = loop.time() >= deadline
            targets, self._put_off = self._put_off, []
            for target in targets:
                account = await self._examine(target)
                if account is not None:
                    self._finish(account)
            if self._put_off and late:
                for target in self._put_off:
                    self._finish(Account(target.user, error="another worker is reading it"))
                return
            if self._put_off:
                await asyncio.sleep(claims.POLL_SECONDS)

    async def _spans(self, target: Target) -> list[Span]:
        """Those of the audit and the recorded gaps; what touches is asked for as one."""
        spans = await super()._spans(target)
        gaps = await self._gaps(target.user)
        together = []
        for stream, end_ms in target.lists.items():
            mine = [(span.from_ms, span.to_ms) for span in spans if span.stream is stream]
            mine += [(max(gap.from_ms, target.start_ms), min(gap.to_ms, end_ms - 1)) for gap in gaps]
            together += [Span(stream, from_ms, to_ms) for from_ms, to_ms in joined(mine)]
        return together

    async def _gaps(self, user: str) -> list[Gap]:
        rows = await self._reading.run(lambda connection: connection.fetch(sql("audit_gaps"), user))
        return [Gap(row["from_ms"], row["to_ms"], GapKind(row["kind"])) for row in rows]

    async def _examine(self, target: Target) -> Account | None:
        account = Account(target.user)
        claim = await self._claim(target.user)
        if claim is None:
            self._put_off.append(target)
            return None
        looks: list[Look] = []

        def take(look: Look) -> None:
            account.count(look)
            looks.append(look)

        await self._look_at(target, account, take)
        gaps = await self._gaps(target.user)
        closed = [gap for gap in gaps if is_closed_by(gap, looks)]
        account.gaps_closed, account.gaps_left = len(closed), [gap for gap in gaps if gap not in closed]
        chunks = chunks_of(target, looks)
        if chunks:
            await self._commit(account, chunks, [fill for look in looks for fill in look.refused])
        await self._give_back(target.user, claim, closed, changed=bool(chunks), oldest_ms=_oldest(chunks))
        if chunks or closed or claim.judged_at is None:
            self._to_judge.add(target.user)
        return account

    async def _claim(self, user: str) -> _Claim | None:
        """The user is ours; None if it is somebody else's."""

        async def claim(connection: Connection) -> _Claim | None:
            async with connection.transaction():
                if await connection.fetchval(sql("fence"), self._worker.id) is None:
                    raise claims.claim_lost()
                row = await connection.fetchrow(sql("audit_claim"), user, self._worker.id)
            return None if row is None else _Claim(row["judged_at"], row["completed_at"])

        return await self._writing.run(claim)

    async def _commit(self, account: Account, chunks: Sequence[Chunk], refused: Sequence[Fill]) -> None:
        """Store the rows; those that the database `refused` before are tried again, and may be stored by now."""
        recount = (sql("audit_recount"), account.user, self._worker.id)
        await self._writing.run(lambda connection: connection.execute(*recount))
        async with self._committing:
            committed = await self._store.commit(chunks)
        account.added, account.corrected = committed.inserted, committed.updated
        keys = [fill.key for fill in refused]
        columns = [[getattr(key, name) for key in keys] for name in ("time", "coin", "oid", "tid", "side")]
        digests = [raw_digest(refused_text(fill)) for fill in refused]
        stored = await self._writing.run(
            lambda connection: connection.fetchval(sql("audit_stored"), account.user, digests, *columns)
        )
        still_refused = len(refused) - stored
        account.refused = committed.refused - still_refused + sum(len(chunk.rejected) for chunk in chunks)

    async def _give_back(
        self, user: str, claim: _Claim, closed: Sequence[Gap], *, changed: bool, oldest_ms: int | None
    ) -> None:
        """The user is completed again, as of when it was read, and its closed gaps are gone."""

        async def give_back(connection: Connection) -> None:
            async with connection.transaction():
                if changed:
                    await connection.execute(sql("audit_settle"), user, claim.completed_at, oldest_ms)
                else:
                    judged_at = None if closed else claim.judged_at
                    await connection.execute(sql("audit_release"), user, self._worker.id, judged_at)
                for gap in closed:
                    await connection.execute(sql("audit_close_gap"), user, gap.from_ms, gap.to_ms, str(gap.kind))

        await self._writing.run(give_back)


def is_closed_by(gap: Gap, looks: Sequence[Look]) -> bool:
    """Whether the span of `gap` was read again whole, and what the table has at its beginning came back."""
    mine = [look for look in looks if look.span.from_ms <= gap.from_ms <= look.span.to_ms]
    met_again = any(one.from_ms <= gap.to_ms and gap.from_ms <= one.to_ms for look in mine for one in look.gaps)
    unserved = any(row.key.time <= gap.from_ms for look in mine for row in (*look.extra, *look.out_of_reach))
    reached = any(look.first_served_ms is not None and look.first_served_ms <= gap.from_ms for look in mine)
    whole = any(look.span.to_ms >= gap.to_ms for look in mine)
    return whole and reached and not met_again and not unserved


def chunks_of(target: Target, looks: Sequence[Look]) -> list[Chunk]:
    """What to commit of a user: rows that are missing, were refused or differ, its progress with the last of them.

    The fills go last: the newest of them is where a later walk goes on, which the slices do not tell.
    """
    rows: dict[Stream, list[Fill]] = {stream: [] for stream in Stream}
    for look in looks:
        rows[look.span.stream] += [*look.missing, *look.refused, *(fill for fill, _ in look.differing)]
    for fills in rows.values():
        fills.sort(key=lambda fill: (fill.time, fill.seq))
    rejected = tuple(row for look in looks for row in look.unrecorded)
    fills, slices = rows[Stream.FILLS], rows[Stream.SLICES]
    chunks = []
    if slices:
        chunks.append(Chunk(target.user, None, slices, done=not fills and not rejected, stream=Stream.SLICES))
    if fills or rejected:
        chunks.append(Chunk(target.user, target.end_ms, fills, done=True, rejected=rejected))
    return chunks


def _oldest(chunks: Sequence[Chunk]) -> int | None:
    return min((chunk.fills[0].time for chunk in chunks if chunk.fills), default=None)
