"""Pages of JSON to committed rows: vigil beside what people would write otherwise, and the same pages once more.

    python -m benchmarks.ways [ROWS] [--rounds N] [--only NAME ...]

Every way starts from the same bodies of answers and ends with rows committed in an empty table with the
columns, the key and the collation of `fills` (a hypertable where that is one). The two that copy a ready CSV
do no JSON at all. `of \\copy` is the rate as a share of `psql \\copy` into that table, the mean of a run before and
one after; rounds differ in order, and the median of them is told, with the lowest and the highest.

How to read it: slow ways get fewer rows, so a smaller index, which favours them. Those by hand commit a page a
transaction, count nothing and keep no progress; those that COPY end at the first row that is there already.
vigil decodes, stages, upserts, accounts for every row and stores each user's progress; ROWS should be a multiple
of VIGIL_BATCH_ROWS (20,000), or its last batch waits VIGIL_BATCH_SECONDS for more. dlt makes a table of its own
and takes a second or so to begin.
Rows of 2023 that the exchange gave no `tid` are left out: nobody else has a key for them.

WAL is the whole server's, so a server that others use tells more than was written here. Database:
VIGIL_DATABASE_URL (an empty one), or an embedded Postgres. What is not installed (extra `bench`) is told and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import msgspec

from benchmarks.baselines.drivers import asyncpg_copy, asyncpg_executemany, psycopg_copy
from benchmarks.baselines.replay import Traces, traced
from benchmarks.baselines.table import Page, Write, copy_file, default_collation, fresh_table, write_ready
from benchmarks.baselines.toolkits import dlt_merge, sqlalchemy_insert
from benchmarks.ingest import PAGE, clock, commit_pages, empty
from vigil.db import session
from vigil.embedded import embedded_postgres
from vigil.pipeline import prepare_database
from vigil.simulator import Population

ROWS = 120_000
ROUNDS = 3
TABLE = "written"
OURS, BASELINE, OTHER_KEY = "vigil", "psql \\copy", "psql \\copy, default key"


@dataclass(frozen=True, slots=True)
class Way:
    """`share` of the pages is enough to measure its rate; `needs` are packages beyond vigil's own."""

    write: Write
    share: float
    needs: tuple[str, ...] = ()
    own_table: bool = False
    """Its rows are in TABLE_by_dlt.TABLE, not in the table it was given."""


WAYS = {
    "asyncpg records, Decimal": Way(asyncpg_copy, 0.5),
    "psycopg copy, write_row": Way(psycopg_copy, 0.4, ("psycopg",)),
    "asyncpg executemany": Way(asyncpg_executemany, 0.25),
    "SQLAlchemy insert": Way(sqlalchemy_insert, 0.15, ("sqlalchemy", "psycopg")),
    "dlt merge": Way(dlt_merge, 0.2, ("dlt", "psycopg"), own_table=True),
}


@dataclass(slots=True)
class Figures:
    """Of one way, a number for each round; `rows` of a round."""

    rows: int = 0
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


class Contest:
    """The rounds over one database; `tell` prints."""

    def __init__(self, dsn: str, pages: Sequence[Page], ready: Path, only: Sequence[str]) -> None:
        self._dsn = dsn
        self._pages = list(pages)
        self._ready = ready
        self._rows = sum(len(json.loads(body)) for _, body in pages)
        self._ways = {name: way for name, way in WAYS.items() if not only or name in only}
        self.collation: str | None = None
        self.figures: dict[str, Figures] = {}
        self.replays: list[tuple[Traces, Traces]] = []

    async def prepare(self) -> None:
        """Drop the ways that can't be, telling so; import what the others need, so that no clock sees it."""
        async with session(self._dsn) as connection:
            self.collation = await default_collation(connection)
        for name, way in list(self._ways.items()):
            try:
                for package in way.needs:
                    importlib.import_module(package)
            except ModuleNotFoundError as error:
                del self._ways[name]
                print(f"{name}: not installed: {error.name} (pip install 'vigil-backfill[bench]')")
        if self.collation is None:
            print(f"{OTHER_KEY}: this server knows no collation but C's")

    async def round(self, number: int) -> None:
        """Each way once, between two runs of the baseline; every round begins with another."""
        names = [OURS, *([OTHER_KEY] if self.collation else []), *self._ways]
        before = await self._rate(BASELINE)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rate = await self._rate(name)
            after = await self._rate(BASELINE)
            self._note(name, rate, mean((before, after)))
            self._note(BASELINE, after, before)
            before = after

    async def _rate(self, name: str) -> float:
        """Rows a second into an empty table."""
        if name == OURS:
            return await self._ours()
        if name in (BASELINE, OTHER_KEY):
            await fresh_table(self._dsn, TABLE, (self.collation or "C") if name == OTHER_KEY else "C")
            taken, rows = await clock(lambda: copy_file(self._dsn, TABLE, self._ready)), self._rows
        else:
            way = self._ways[name]
            pages = self._pages[: max(1, round(way.share * len(self._pages)))]
            await clear(self._dsn)
            await fresh_table(self._dsn, TABLE)
            taken = await clock(lambda: way.write(self._dsn, TABLE, pages))
            rows = sum(len(json.loads(body)) for _, body in pages)
        await self._count(
            f"{TABLE}_by_dlt.{TABLE}" if name in self._ways and self._ways[name].own_table else TABLE, rows
        )
        self.figures.setdefault(name, Figures()).rows = rows
        return rows / taken

    async def _ours(self) -> float:
        await empty(self._dsn)
        new = await traced(self._dsn, lambda: commit_pages(self._dsn, self._pages))
        again = await traced(self._dsn, lambda: commit_pages(self._dsn, self._pages))
        await self._count("fills", self._rows)
        self.replays.append((new, again))
        self.figures.setdefault(OURS, Figures()).rows = self._rows
        return self._rows / new.seconds

    async def _count(self, table: str, rows: int) -> None:
        async with session(self._dsn) as connection:
            count = await connection.fetchval(f"SELECT count(*) FROM {table}")
            assert count == rows, f"{count} rows of {rows} arrived in {table}"

    def _note(self, name: str, rate: float, baseline: float) -> None:
        self.figures[name].rates.append(rate)
        self.figures[name].ratios.append(rate / baseline)

    def tell(self) -> None:
        print(f"\n\n{'way':26}" + _line("rows", "rows/s", f"of {BASELINE[5:]}", "lowest", "highest"))
        for name, one in sorted(self.figures.items(), key=lambda item: -median(item[1].ratios)):
            shares = [f"{share:.2f}" for share in (median(one.ratios), min(one.ratios), max(one.ratios))]
            print(f"{name:26}" + _line(f"{one.rows:,}", f"{median(one.rates):,.0f}", *shares))
        print(f"\n{'vigil, a page':26}" + _line("rows", "rows/s", "of new", "WAL/row", "dead", "changed"))
        for name, which in (("for the first time", 0), ("once more", 1)):
            traces = [pair[which] for pair in self.replays]
            rate = median(self._rows / one.seconds for one in traces)
            ratio = median(pair[0].seconds / pair[which].seconds for pair in self.replays)
            wal = median(one.wal_bytes / self._rows for one in traces)
            changed = sum(new.versions != again.versions for new, again in self.replays) if which else ""
            dead = max(one.dead_tuples for one in traces)
            print(f"{name:26}" + _line(f"{self._rows:,}", f"{rate:,.0f}", f"{ratio:.2f}", f"{wal:.1f}", dead, changed))


def _line(*cells: object) -> str:
    return "".join(f" {cell!s:>9}" for cell in cells)


async def clear(dsn: str) -> None:
    """No table of another way, nor what dlt made: it would merge into that."""
    async with session(dsn) as connection:
        await connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await connection.execute(f"DROP SCHEMA IF EXISTS {TABLE}_by_dlt, {TABLE}_by_dlt_staging CASCADE")


def keyed_pages(rows: int, page: int = PAGE) -> list[Page]:
    """Full pages, of users of one length, without rows that the exchange gave no `tid`; who has too few, has none."""
    wanted = rows // page
    users = 2 * wanted
    population = Population(users, seed=1, lengths=dict.fromkeys(range(users), page + page // 4))
    pages: list[Page] = []
    for index in range(users):
        kept = [row for row in population.fills(index) if "tid" in row][:page]
        if len(kept) == page and len(pages) < wanted:
            pages.append((population.address(index), msgspec.json.encode(kept)))
    assert len(pages) == wanted, f"{len(pages)} pages of {wanted}"
    return pages


async def measure(dsn: str, rows: int, rounds: int, only: Sequence[str], place: Path) -> None:
    await prepare_database(dsn)
    pages = keyed_pages(rows)
    ready = place / "ready.csv"
    write_ready(ready, pages)
    contest = Contest(dsn, pages, ready, only)
    await contest.prepare()
    async with session(dsn) as connection:
        version = await connection.fetchval("SHOW server_version")
        hypertable = await connection.fetchval("SELECT hypertable FROM backfill_shape()")
    print(
        f"Postgres {version}, {'hypertables' if hypertable else 'plain tables'}; collated: {contest.collation}; ",
        end="",
    )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before", end="", flush=True)
    for number in range(rounds):
        await contest.round(number)
    print(f", {os.getloadavg()[0]:.1f} after")
    contest.tell()
    await clear(dsn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=ROWS, help=f"of the fast ways (default: {ROWS:,})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--only", action="append", default=[], choices=list(WAYS), help="beside vigil and psql")
    options = parser.parse_args()
    url = os.environ.get("VIGIL_DATABASE_URL")
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as directory:
        place = Path(directory)
        with nullcontext(url) if url else embedded_postgres(place / "postgres") as dsn:
            asyncio.run(measure(dsn, options.rows, options.rounds, options.only, place))


if __name__ == "__main__":
    main()
