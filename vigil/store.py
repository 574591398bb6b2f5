"""Committing a batch: fills, gaps, rejected rows and progress in one transaction, exactly once.

The transaction, in order: the fence (this worker still lives in everyone's eyes); the rows; the check
that all of them are accounted for; the users' progress. Rows of users of whom `fills` has none in these
spans are COPYed into it. Others, and those where that is refused, are COPYed into the staging table:
INSERT of what is new, and only if something was not new an UPDATE of what changed. `received = inserted
+ updated + already there` holds for every batch or it is rolled back.

A batch may be applied twice without harm. If the server goes away while COMMIT is under way,
nobody knows whether it took effect; the number of the batch, stored with the worker in the same
transaction, tells. A row that the database will not take (too large for an index, outside a
constraint that somebody added) is found by halving the batch and goes to `rejected_fills`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import asyncpg

from vigil.claims import claim_lost
from vigil.copy_text import COPY_COLUMNS, Stretch, copy_lines, instant, rejected_line
from vigil.cursor import Gap
from vigil.db import Connection, Link, seconds, sql
from vigil.errors import ClaimLost, SchemaMismatch, StoreError
from vigil.fills import Fill, Rejected, Stream

_ROW_REFUSED = (
    asyncpg.DataError,  # 22
    asyncpg.IntegrityConstraintViolationError,  # 23
    asyncpg.ProgramLimitExceededError,  # 54: an index row too large
)


FEW_ROWS_A_USER = 20
"""Below so many, looking for each user's rows first costs more than a look at each row."""

COPY_PIECE_BYTES = 128 * 1024
"""About what a socket takes at once: the transport moves all that it could not send to the front again."""

REFUSED_ROWS = 500
"""So many rows of one batch refused by the database: it is the table, not they, and each costs some 20 ms."""


@dataclass(slots=True)
class Chunk:
    """What one page of one user leaves to commit: queued by a pager, committed by the writer.

    `cursor_ms` None leaves the cursor where it is; `error` ends the user's turn as failed, `released`
    as interrupted: nobody's fault, and no failed try. `encode` it early, while the server is busy with
    the batch before.
    """

    user: str
    cursor_ms: int | None
    fills: list[Fill] = field(default_factory=list)
    done: bool = False
    gaps: tuple[Gap, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    body_bytes: int = 0
    error: str | None = None
    released: bool = False
    stream: Stream = Stream.FILLS
    lifetime_volume: Decimal | None = None
    _lines: bytes | None = field(default=None, init=False, repr=False)

    def encode(self) -> bytes:
        """The rows as COPY text."""
        if self._lines is None:
            self._lines = copy_lines(self.user, self.fills)
        return self._lines

    def stretch(self) -> Stretch:
        """Of its fills, of which there must be one."""
        return Stretch(self.user, instant(self.fills[0].time), instant(self.fills[-1].time), len(self.fills))


@dataclass(frozen=True, slots=True)
class Committed:
    """What a committed batch did, in rows: received = inserted + updated + already_there + refused."""

    received: int
    inserted: int
    updated: int
    already_there: int
    refused: int
    """Rows of `received` that the database would not take: in `rejected_fills` now."""
    rejected: int
    """Rows new in `rejected_fills`, `refused` included."""


@dataclass(slots=True)
class StoredRows:
    """What became of the rows of a batch; `inserted` by user."""

    inserted: Counter[str] = field(default_factory=Counter)
    updated: int = 0
    already_there: int = 0
    refused: list[tuple[str, Rejected]] = field(default_factory=list)

    def check(self, received: int) -> None:
        """Raises: StoreError when the rows do not add up to those received."""
        accounted = self.inserted.total() + self.updated + self.already_there + len(self.refused)
        if accounted != received:
            raise StoreError(f"A batch of {received} rows accounts for {accounted}; rolled back: {self}.")


WRITER_SESSION = {
    "jit": "off",
    "work_mem": "64MB",
    "timescaledb.max_tuples_decompressed_per_dml_transaction": "0",
}
"""Settings of the writer's session: compiling costs more than its statements run, and a batch is joined in memory.
TimescaleDB ends a transaction that unpacks more than 100,000 rows of the columnstore, and a batch that tells something
new of rows there may have to; 0 lifts that. Plain Postgres takes any name with a dot in it."""


class Store:
    """Commits batches for one worker over one link; `prepare_staging` must run on each connection.

    `keeps_all` says that the source of the rows has every fill there ever was.
    """

    def __init__(self, link: Link, worker_id: int, *, lease_seconds: float, keeps_all: bool = False) -> None:
        self._keeps_all = keeps_all
        self._link = link
        self._worker_id = worker_id
        self._lease = seconds(lease_seconds)
        self._batch = 0
        self._durable = 0  # the newest batch whose commit was confirmed

    async def commit(self, chunks: Sequence[Chunk]) -> Committed:
        """Apply the chunks, in order, in one transaction; returns when they are durable.

        Raises: ClaimLost when another worker took over or the database lost an earlier batch,
        StoreUnavailable when the database stays away longer than the settings allow, StoreError
        otherwise. Then nothing was applied.
        """
        self._batch += 1
        applied: list[Committed] = []
        stretches = [chunk.stretch() for chunk in chunks if chunk.fills]

        async def attempt(connection: Connection) -> Committed:
            met = await meets_rows(connection, stretches)
            async with connection.transaction():
                # Waits for an earlier try that is still committing.
                fence = sql("fence_again" if applied else "fence")
                newest = await connection.fetchval(fence, self._worker_id)
                if newest is not None and newest < self._durable:
                    raise commit_taken_back()
                if applied and newest == self._batch:
                    return applied[-1]  # only the answer to COMMIT was lost
                applied.append(await self._apply(connection, chunks, stretches, newest, met=met))
            return applied[-1]

        committed = await self._link.run(attempt)
        self._durable = self._batch
        return committed

    async def _apply(
        self,
        connection: Connection,
        chunks: Sequence[Chunk],
        stretches: Sequence[Stretch],
        newest: int | None,
        *,
        met: bool | None,
    ) -> Committed:
        if newest is None:
            raise claim_lost()
        received = sum(len(chunk.fills) for chunk in chunks)
        lines = b"".join([chunk.encode() for chunk in chunks])
        rows = await store_rows(connection, lines, stretches, met=met)
        rejected = [(chunk.user, row) for chunk in chunks for row in chunk.rejected] + rows.refused
        newly_rejected = await store_rejected(connection, rejected)
        await _store_gaps(connection, chunks)
        await self._advance(connection, chunks, rows.inserted)
        await connection.execute(sql("number_batch"), self._worker_id, self._batch, self._lease)
        rows.check(received)
        inserted, refused = rows.inserted.total(), len(rows.refused)
        return Committed(received, inserted, rows.updated, rows.already_there, refused, newly_rejected)

    async def _advance(self, connection: Connection, chunks: Sequence[Chunk], inserted: Counter[str]) -> None:
        last = {chunk.user: chunk for chunk in chunks}
        oldest: dict[str, int] = {}
        newest: dict[str, int] = {}
        for chunk in chunks:
            if chunk.fills:
                oldest.setdefault(chunk.user, chunk.fills[0].time)
                newest[chunk.user] = chunk.fills[-1].time
        cursors = {chunk.user: chunk.cursor_ms for chunk in chunks if chunk.cursor_ms is not None}
        users = sorted(last)
        status = await connection.execute(
            sql("advance_progress"),
            self._worker_id,
            users,
            [cursors.get(user) for user in users],
            [last[user].done for user in users],
            [inserted[user] for user in users],
            [oldest.get(user) for user in users],
            [newest.get(user) for user in users],
            [last[user].error for user in users],
            [last[user].released for user in users],
            [last[user].stream is Stream.SLICES for user in users],
            [last[user].lifetime_volume for user in users],
            self._keeps_all,
        )
        if status != f"UPDATE {len(users)}":
            raise ClaimLost(
                f"Some of {len(users)} users are no longer this worker's; the batch was not committed.",
                hint="Run the same command again.",
            )


def commit_taken_back() -> ClaimLost:
    return ClaimLost(
        "The database no longer has what it confirmed to have committed: a failover to a standby that lacked it, or a"
        " crash without synchronous_commit. What this worker holds in memory would leave a hole behind that.",
        hint="Nothing is lost: run the same command again, it goes on from what the database has.",
    )


async def prepare_staging(connection: Connection) -> None:
    """Create the staging table of this session."""
    await connection.execute(sql("staging"))


async def meets_rows(connection: Connection, stretches: Sequence[Stretch]) -> bool | None:
    """Whether `fills` has rows of these users in these spans; None: there are too many users to ask.

    A hint, to be asked for before the transaction: in it, each chunk looked into would be held against who packs it.
    """
    if not stretches or len(stretches) * FEW_ROWS_A_USER > sum(stretch.rows for stretch in stretches):
        return None
    users, first, last, _ = zip(*stretches, strict=True)
    return bool(await connection.fetchval(sql("any_stored"), users, first, last))


async def store_rows(
    connection: Connection, lines: bytes, stretches: Sequence[Stretch], *, met: bool | None
) -> StoredRows:
    """Store rows, given as lines of COPY text, in the caller's transaction; `met` is what `meets_rows` told."""
    rows = StoredRows()
    count = sum(stretch.rows for stretch in stretches)
    if met is False and await _copy_new(connection, lines, count):
        for stretch in stretches:
            rows.inserted[stretch.user] += stretch.rows
        return rows
    await _store_or_halve(connection, lines, count, rows, met=met is True)
    return rows


async def _copy_new(connection: Connection, lines: bytes, count: int) -> bool:
    """COPY rows straight into `fills`: each is written once, where the upsert writes it twice. False, and nothing
    done, where one of them is refused: it is in the batch twice, or somebody else's since a moment ago, or odd."""
    try:
        async with connection.transaction():
            answer = await _copy(connection, "fills", lines)
    except (*_ROW_REFUSED, asyncpg.FeatureNotSupportedError):  # the latter: COPY, where there is row-level security
        return False
    if answer != f"COPY {count}":
        raise StoreError(f"{count} rows were sent to the database, and it answered: {answer}.")
    return True


async def _copy(connection: Connection, table: str, lines: bytes) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(lines), COPY_PIECE_BYTES):
            yield lines[begin : begin + COPY_PIECE_BYTES]

    return await connection.copy_to_table(table, source=pieces(), columns=COPY_COLUMNS, format="text")


async def _store_or_halve(connection: Connection, lines: bytes, count: int, result: StoredRows, *, met: bool) -> None:
    """Upsert; halve the lines until the row that the database refuses stands alone."""
    if not count:
        return
    try:
        async with connection.transaction():
            inserted, updated, already_there = await _upsert(connection, lines, count, met=met)
    except _ROW_REFUSED as error:
        if len(result.refused) >= REFUSED_ROWS:
            raise StoreError(f"The database refuses row after row of one batch: {error}.") from error
        if count == 1:
            result.refused.append(rejected_line(lines.decode(), f"the database refused it: {error}"))
            return
        single = lines.splitlines(keepends=True)
        middle = count // 2
        await _store_or_halve(connection, b"".join(single[:middle]), middle, result, met=met)
        await _store_or_halve(connection, b"".join(single[middle:]), count - middle, result, met=met)
        return
    result.inserted.update(inserted)
    result.updated += updated
    result.already_there += already_there


async def _upsert(connection: Connection, lines: bytes, count: int, *, met: bool) -> tuple[dict[str, int], int, int]:
    """COPY to staging, insert what is new, update what changed; `met`: some are there already, and likely all.

    Returns rows inserted by user, updated, and there already: each counted by itself, so that they
    need not add up.
    """
    await connection.execute("TRUNCATE staged_fills")
    await _copy(connection, "staged_fills", lines)
    inserted: dict[str, int] = {}
    present, changed = await _compare(connection) if met else (0, 0)
    updated = 0
    if present != count:
        inserted = {row["user_address"]: row["rows"] for row in await connection.fetch(sql("insert_fills"))}
        if sum(inserted.values()) == count:
            return inserted, 0, 0
        present, changed = await _compare(connection)
    if changed:
        news = await connection.fetchrow(sql("update_fills"))
        assert news is not None  # noqa: S101  it always has a row
        updated, changed = news["updated"], news["told"]
    return inserted, updated, present - changed - sum(inserted.values())


async def _compare(connection: Connection) -> tuple[int, int]:
    """How many staged rows the table holds, and how many of its fills they tell something new of."""
    # A temporary table has no statistics to plan by: of the joins, the hash is right for any number of rows.
    await connection.execute("SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off")
    compared = await connection.fetchrow(sql("compare_staged"))
    assert compared is not None  # noqa: S101  an aggregate always has a row
    return compared["present"], compared["changed"]


async def store_rejected(connection: Connection, rejected: Sequence[tuple[str, Rejected]]) -> int:
    """Keep rows that can't be fills, by user; returns how many of them are new there."""
    if not rejected:
        return 0
    raws = [row.raw.replace("\x00", "\\u0000") for _, row in rejected]
    count = await connection.fetchval(
        sql("insert_rejected"),
        [user for user, _ in rejected],
        [hashlib.sha256(raw.encode()).digest() for raw in raws],
        raws,
        [row.reason.replace("\x00", "\\u0000") for _, row in rejected],
        [row.time for _, row in rejected],
    )
    return int(count)


async def _store_gaps(connection: Connection, chunks: Iterable[Chunk]) -> None:
    gaps = [(chunk.user, gap.from_ms, gap.to_ms, str(gap.kind)) for chunk in chunks for gap in chunk.gaps]
    if gaps:
        await connection.execute(sql("insert_gaps"), *(list(column) for column in zip(*gaps, strict=True)))


FILLS_COLUMNS = {
    **dict.fromkeys(("user_address", "coin", "side", "dir", "hash", "fee_token", "cloid"), "text"),
    **dict.fromkeys(("px", "sz", "start_position", "closed_pnl", "fee", "builder_fee"), "numeric"),
    **dict.fromkeys(("oid", "tid", "twap_id"), "bigint"),
    **dict.fromkeys(("time", "block_time"), "timestamp with time zone"),
    **dict.fromkeys(("liquidation", "extra"), "jsonb"),
    "crossed": "boolean",
    "seq": "integer",
}


async def check_fills_table(connection: Connection) -> None:
    """Refuse a `fills` table that somebody else made with other columns or another key; none at all is fine.

    Raises: SchemaMismatch naming what differs.
    """
    if await connection.fetchval(sql("adopt_under_way")):
        raise SchemaMismatch(
            "An adoption of the table `fills` was begun and is not over.",
            hint="Run `vigil-backfill migrate --adopt` to its end: it goes on where it was.",
        )
    found = {row["attname"]: row["type"] for row in await connection.fetch(sql("fills_columns"))}
    if not found:
        return
    differing = [
        f"{name} is {found[name]}, expected {expected}"
        for name, expected in FILLS_COLUMNS.items()
        if found.get(name, expected) != expected
    ]
    if missing := [name for name in FILLS_COLUMNS if name not in found]:
        differing.append(f"it has no {', '.join(missing)}")
    if demanding := await connection.fetch(sql("fills_demands"), list(FILLS_COLUMNS)):
        differing.append(f"it demands a value for {', '.join(row['attname'] for row in demanding)}")
    refusing = await connection.fetch(sql("fills_refusals"), list(FILLS_COLUMNS))
    differing += [f"its unique index {row['name']} would refuse fills" for row in refusing]
    if not differing and not await connection.fetchval(sql("fills_key")):
        differing = ["it has no unique index on (user_address, time, coin, oid, tid, side)"]
    if differing:
        raise SchemaMismatch(
            f"The table `fills` in this database is not vigil's: {'; '.join(differing[:5])}.",
            hint="`vigil-backfill migrate --adopt --dry-run` tells what it takes to make it so. Or rename that table,"
            " or point VIGIL_DATABASE_URL at another database.",
        )
