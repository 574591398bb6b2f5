"""Verifying: the exchange is asked again for windows of what was read, and the table set against its answer.

Theory of operation. What was read of a user is cut into *windows*: as many for each of its lists as its
`fills_count` makes with `WINDOW_ROWS`, each of the same number of the rows that the table has, together all
of [window_start, window_end). So how many there are is known without counting rows, and a draw among them
is uniform: every window of every user has the same chance. That population, users read to their end and
within the exchange's reach, is what the stated bound is about (`differences.upper_bound`).

A window is compared with the rows the table has *after* the answer came: rows only ever join the table.
The exchange may have lost rows since: of those the table has and it did not serve, the ones not behind the
first row that it serves of that user at all are out of reach, which is no difference. The first row is asked
for after the window, so that retention, sliding between the two, can only let a row count as out of reach.

Nothing of this is written. The worker has a row, as every worker, by which it shares the lane's budget.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from itertools import pairwise
from typing import Any

from vigil.api import advance
from vigil.blame import SILENT_USERS
from vigil.claims import Window
from vigil.cursor import Gap, Walk
from vigil.db import Connection, Link, sql
from vigil.differences import Held, compare
from vigil.errors import ExchangeError, ExchangeRefused, ExchangeUnavailable, MalformedReply
from vigil.fills import Fill, Key, Rejected, Stream
from vigil.settings import Settings
from vigil.windows import WINDOW_ROWS, Account, Choice, Look, Selection, Span, Summary, Target, draw, joined, pick
from vigil.worker import Worker, first_cause, signals

NEAR_ROWS = 400
"""Two suspect spans with no more rows between them are asked for as one: these rows cost what a request costs."""

USERS_AT_ONCE = 5_000
"""Users listed by one statement."""


class Audit:
    """Looks at what `selection` names, once; `tell` hears of each user as it is done."""

    def __init__(
        self, settings: Settings, dsn: str, selection: Selection, tell: Callable[[Account], None] = lambda _: None
    ) -> None:
        self.summary = Summary(selection.choice, selection.seed)
        self._settings = settings
        self._selection = selection
        self._tell = tell
        self._users = None if selection.users is None else sorted(selection.users)
        self._worker = Worker(settings, dsn, Window(0, 0), users=[])
        self._reading = Link(dsn, settings)
        self._lost: dict[tuple[str, Stream], int] = {}  # the exchange serves no row before this ms, nor ever will
        self._silent = 0
        self._working: asyncio.Task[None] | None = None

    async def execute(self) -> Summary:
        """Look until all is seen, or to a signal. Raises: VigilError; a summary of what was seen is in `summary`."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._reading.close)
            await stack.enter_async_context(self._worker)
            with signals(self._interrupt):
                try:
                    await self._flow()
                except BaseExceptionGroup as group:
                    raise first_cause(group) from group
                finally:
                    self.look()
        return self.summary

    def look(self) -> Summary:
        """The summary, up to date."""
        self.summary.requests, self.summary.weight = self._worker.api.requests, self._worker.api.weight_spent
        return self.summary

    async def _flow(self) -> None:
        async with asyncio.TaskGroup() as group:
            duties = [group.create_task(duty) for duty in self._worker.duties()]
            self._working = group.create_task(self._work())
            await asyncio.wait({self._working})
            for duty in duties:
                duty.cancel()

    async def _work(self) -> None:
        await self._refuse_unread()
        targets, turn = self._targets(), asyncio.Lock()

        async def examine() -> None:
            while True:
                async with turn:
                    target = await anext(targets, None)
                if target is None:
                    return
                account = await self._examine(target)
                if account is not None:
                    self._finish(account)

        async with aclosing(targets), asyncio.TaskGroup() as group:
            for _ in range(self._worker.pagers):
                group.create_task(examine())

    def _interrupt(self, signum: int, task: asyncio.Task[Any]) -> None:
        again = self.summary.signal is not None
        self.summary.signal = self.summary.signal or signum
        (task if again or self._working is None else self._working).cancel()

    def _finish(self, account: Account) -> None:
        self.summary.count(account)
        self._tell(account)

    # -- which windows ----------------------------------------------------------------------------

    async def _refuse_unread(self) -> None:
        """Users asked for by name that have not been read to their end."""
        if self._users is None:
            return
        for row in await self._reading.run(lambda connection: connection.fetch(sql("audit_unread"), self._users)):
            why = "not known" if row["state"] is None else f"{row['state']}, not read to the end"
            self._finish(Account(row["user_address"], error=why))

    async def _targets(self) -> AsyncGenerator[Target, None]:
        if self._selection.choice is Choice.SAMPLE:
            for target in await self._reading.run(self._draw):
                yield target
            return
        await self._reading.run(self._count)
        self.summary.exhaustive = self._selection.choice is Choice.ALL
        after = ""
        while page := await self._reading.run(partial(self._listed, after)):
            for target in page:
                yield target
            after = page[-1].user

    async def _count(self, connection: Connection) -> None:
        row = await connection.fetchrow(sql("audit_total"), self._users, WINDOW_ROWS)
        assert row is not None  # noqa: S101  an aggregate always has a row
        self.summary.windows_known, self.summary.users_known = row["windows"], row["users"]

    async def _listed(self, after: str, connection: Connection) -> list[Target]:
        """The next users behind `after`."""
        if self._selection.choice is Choice.SUSPECT:
            rows = await connection.fetch(sql("audit_suspects"), self._users, after, USERS_AT_ONCE)
        else:
            rows = await connection.fetch(sql("audit_windows"), self._users, after, USERS_AT_ONCE, WINDOW_ROWS)
        return [Target(*row) for row in rows]

    async def _draw(self, connection: Connection) -> list[Target]:
        """A uniform sample of all windows without repetition, by user; the same from the same database and seed."""
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await self._count(connection)
            total = self.summary.windows_known
            self.summary.exhaustive = self._selection.windows >= total
            drawn = draw(total, self._selection.windows, self._selection.seed)
            targets, after, passed = list[Target](), "", 0
            while rows := await connection.fetch(sql("audit_windows"), self._users, after, USERS_AT_ONCE, WINDOW_ROWS):
                known = [Target(*row) for row in rows]
                after = known[-1].user
                targets += pick(known, drawn, passed)
                passed += sum(one.windows for one in known)
        return targets

    async def _spans(self, target: Target) -> list[Span]:
        """The windows of `target` to look at. A window of no time (its rows share a millisecond) is none."""
        if self._selection.choice is Choice.SUSPECT:
            return await self._suspect_spans(target)
        spans = []
        numbers = range(target.windows) if target.numbers is None else target.numbers
        for place, (stream, end_ms) in enumerate(target.lists.items()):
            wanted = [number - place * target.parts for number in numbers if number // target.parts == place]
            if not wanted:
                continue
            edges = [target.start_ms, *await self._edges(target, stream, end_ms), end_ms]
            edges += [end_ms] * (target.parts + 1 - len(edges))  # fewer rows than windows
            windows = list(pairwise(edges))
            spans += [Span(stream, windows[i][0], windows[i][1] - 1) for i in wanted if windows[i][0] < windows[i][1]]
        return spans

    async def _edges(self, target: Target, stream: Stream, end_ms: int) -> list[int]:
        if target.parts == 1:
            return []
        slices = stream is Stream.SLICES
        rows = await self._reading.run(
            lambda connection: connection.fetch(
                sql("audit_edges"), target.user, slices, target.start_ms, end_ms, target.parts
            )
        )
        return [row["from_ms"] for row in rows]

    async def _suspect_spans(self, target: Target) -> list[Span]:
        """What is suspect of a user, spans that are near put together."""
        rows = await self._reading.run(lambda connection: connection.fetch(sql("audit_spans"), target.user))
        whole = (target.start_ms, target.end_ms - 1)
        spans = joined((max(row["from_ms"], whole[0]), min(row["to_ms"], whole[1])) for row in rows)
        if len(spans) > 1:
            between = [(one[1] + 1, after[0] - 1) for one, after in pairwise(spans)]
            ends = [list(column) for column in zip(*between, strict=True)]
            counted = await self._reading.run(
                lambda connection: connection.fetch(sql("audit_between"), target.user, *ends)
            )
            near = [span for span, row in zip(between, counted, strict=True) if row["rows"] <= NEAR_ROWS]
            spans = joined([*spans, *near])
        return [
            Span(stream, from_ms, min(to_ms, end_ms - 1))
            for stream, end_ms in target.lists.items()
            for from_ms, to_ms in spans
            if from_ms < end_ms
        ]

    # -- looking ----------------------------------------------------------------------------------

    async def _examine(self, target: Target) -> Account | None:
        """Look at a user; None if it is put off."""
        account = Account(target.user)
        await self._look_at(target, account, account.count)
        return account

    async def _look_at(self, target: Target, account: Account, take: Callable[[Look], None]) -> None:
        """Each of the target's windows, to `take`; an exchange that does not answer for the user is noted in `account`.

        Raises: ExchangeError when it answers for nobody.
        """
        spans = await self._spans(target)
        for place, span in enumerate(spans):
            try:
                look = await self._look(target.user, span)
            except (ExchangeRefused, ExchangeUnavailable, MalformedReply) as error:
                account.error = str(error)
                account.unanswered_windows = len(spans) - place
                self._silent += 1
                if self._silent >= max(SILENT_USERS, 2 * self._worker.pagers):
                    raise _nobody_answers(self._silent, error) from error
                return
            self._silent = 0
            take(look)

    async def _look(self, user: str, span: Span) -> Look:
        walk = Walk(span.from_ms, span.to_ms + 1)
        served: list[Fill] = []
        rejected: list[Rejected] = []
        gaps: tuple[Gap, ...] = ()
        api = self._worker.api
        while not walk.done:
            page, step = await advance(walk, user, self._worker.pages[span.stream], api.faults)
            served += step.fills
            rejected += page.rejected
            gaps += step.gaps
        rows = await self._reading.run(
            lambda connection: connection.fetch(sql("audit_rows"), user, span.from_ms, span.to_ms)
        )
        found = compare(served, [_held(dict(row)) for row in rows], span.stream)
        recorded = await self._recorded(user, found.missing, rejected)
        missing = [fill for fill in found.missing if raw_digest(refused_text(fill)) not in recorded]
        refused = [fill for fill in found.missing if raw_digest(refused_text(fill)) in recorded]
        unrecorded = [row for row in rejected if raw_digest(row.raw) not in recorded]
        known = len(refused) + len(rejected) - len(unrecorded)
        first_ms = served[0].time if served else None
        lost_ms = await self._lost_before(user, span.stream, found.extra, first_ms)
        extra = [row for row in found.extra if row.key.time > lost_ms]
        out_of_reach = [row for row in found.extra if row.key.time <= lost_ms]
        return Look(
            span,
            found.equal,
            missing,
            found.differing,
            extra,
            out_of_reach,
            known,
            refused,
            unrecorded,
            gaps,
            first_ms,
        )

    async def _recorded(self, user: str, missing: list[Fill], rejected: list[Rejected]) -> set[bytes]:
        """Which rows that are not in `fills` are in `rejected_fills`, by digest."""
        digests = [raw_digest(refused_text(fill)) for fill in missing] + [raw_digest(row.raw) for row in rejected]
        if not digests:
            return set()
        rows = await self._reading.run(lambda connection: connection.fetch(sql("audit_rejected"), user, digests))
        return {bytes(row["raw_sha256"]) for row in rows}

    async def _lost_before(self, user: str, stream: Stream, extra: Sequence[Held], first_ms: int | None) -> int:
        """Up to which ms rows of `extra` may be out of the exchange's reach; -1 if none can be.

        Retention may have cut the first millisecond in two, so it is included.
        """
        doubtful = [row.key.time for row in extra if first_ms is None or row.key.time <= first_ms]
        if not doubtful:
            return -1
        last_ms = max(doubtful)
        known_ms = self._lost.get((user, stream), -1)
        if last_ms > known_ms:
            page = await self._worker.pages[stream](user, 0, last_ms)
            known_ms = page[0].time if page else last_ms
            self._lost[user, stream] = known_ms
        return min(known_ms, last_ms)


def refused_text(fill: Fill) -> str:
    """How a fill that the database refused is kept in `rejected_fills`."""
    return json.dumps(dict(fill), default=str)


def raw_digest(raw: str) -> bytes:
    """By what a row of `rejected_fills` is known."""
    return hashlib.sha256(raw.replace("\x00", "\\u0000").encode()).digest()


def _held(row: dict[str, Any]) -> Held:
    return Held(Key(row["time_ms"], row["coin"], row["oid"], row["tid"], row["side"]), row)


def _nobody_answers(users: int, error: ExchangeError) -> ExchangeUnavailable:
    return ExchangeUnavailable(
        f"The exchange gave no usable answer for {users} users in a row: {error}",
        hint="Nothing is lost: run the same command again later.",
    )
