"""Would a run work here, and if not, what is to be done? Looks at everything a run needs, changes nothing.

It costs 20 weight for each lane: the cheapest question there is (a user that has no fills).
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from vigil.api import HyperliquidAPI
from vigil.db import Connection, session, sql
from vigil.egress import read_lanes
from vigil.errors import ExchangeThrottled, VigilError
from vigil.migrate import has_timescaledb, pending
from vigil.settings import Settings
from vigil.store import check_fills_table

SKEW_SECONDS = 2.0
"""By so much clocks may differ: windows that end now leave VIGIL_INDEXER_LAG_SECONDS of room."""

OLDEST_POSTGRES = 140_000
"""Range aggregates, which the upkeep needs, came with it."""

FREE_BYTES = 5 * 2**30

BUSY_LANE = "Something else asks from there: if that is a run, all is well; else lower VIGIL_WEIGHT_PER_MINUTE."

FILES_BESIDE = 64
"""Database sessions, logs, the terminal."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found, and what is to be done about it."""

    subject: str
    level: Level
    found: str
    remedy: str | None = None


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, Level.OK, found)


async def examine(settings: Settings, dsn: str | None, refusal: VigilError | None = None) -> AsyncIterator[Finding]:
    """Every finding, as it is made. `dsn` None: there is no database to look at, because of `refusal`."""
    yield _open_files(settings)
    if dsn is None:
        assert refusal is not None  # noqa: S101
        yield Finding("database", Level.PROBLEM, str(refusal), refusal.hint)
    else:
        try:
            async with session(dsn) as connection:
                async for finding in _database(connection, settings):
                    yield finding
        except VigilError as error:
            yield Finding("database", Level.PROBLEM, str(error), error.hint)
    async for finding in _exchange(settings):
        yield finding


def _open_files(settings: Settings) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(read_lanes(settings.lane)) * settings.concurrency + FILES_BESIDE
    found = f"{soft:,} may be open, a run needs up to {needed:,}"
    if soft < needed:
        return Finding("open files", Level.PROBLEM, found, f"ulimit -n {needed}, or a lower --concurrency.")
    return ok("open files", found)


async def _database(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    row = await connection.fetchrow(sql("doctor"))
    assert row is not None  # noqa: S101  it has no FROM
    for check in (_version, _durability, _clock, _sessions, _rights):
        yield check(dict(row))
    timescaledb = f"TimescaleDB {row['timescaledb']}" if await has_timescaledb(connection) else None
    if timescaledb:
        yield ok("hypertable", timescaledb)
    else:
        remedy = "CREATE EXTENSION timescaledb, if you want compression; all else works without."
        yield Finding("hypertable", Level.WARNING, "plain Postgres: no hypertable, no compression", remedy)
    yield await _schema(connection)
    if settings.database_url is None:
        yield _disk(settings)
    else:
        size = row["database_bytes"] / 2**30
        yield ok("disk", f"the database has {size:,.1f} GiB; what its server has free can't be told from here")


def _version(row: dict[str, Any]) -> Finding:
    found = f"PostgreSQL {row['version']}"
    if row["version_number"] < OLDEST_POSTGRES:
        return Finding("database", Level.PROBLEM, found, f"Use PostgreSQL {OLDEST_POSTGRES // 10_000} or newer.")
    return ok("database", found)


def _durability(row: dict[str, Any]) -> Finding:
    lax = [name for name in ("fsync", "full_page_writes") if row[name] != "on"]
    if lax:
        remedy = f"ALTER SYSTEM SET {lax[0]} = on, unless the rows may be lost."
        return Finding(
            "durability", Level.PROBLEM, f"{' and '.join(lax)} off: a crash may destroy the database", remedy
        )
    if row["synchronous_commit"] == "off":
        found = "synchronous_commit is off: a crash of the server takes confirmed commits back"
        remedy = "Runs notice that and go on from what is there; switched on costs little here."
        return Finding("durability", Level.WARNING, found, remedy)
    return ok("durability", "what is committed survives a crash")


def _clock(row: dict[str, Any]) -> Finding:
    skew = abs(row["now"].timestamp() - time.time())
    found = f"the database's differs by {skew:.1f} s"
    if skew > SKEW_SECONDS:
        return Finding("clock", Level.WARNING, found, "Leases bear it, but set both by NTP.")
    return ok("clock", found)


def _sessions(row: dict[str, Any]) -> Finding:
    free = row["max_connections"] - row["connections"]
    found = f"{free:,} of {row['max_connections']:,} sessions are free, a worker needs 6"
    if free < 6:
        return Finding("sessions", Level.PROBLEM, found, "Raise max_connections, or end other sessions.")
    return ok("sessions", found)


def _rights(row: dict[str, Any]) -> Finding:
    lacks = [name for name in ("create", "temporary") if not row[f"may_{name}"]]
    if lacks:
        what = {"create": "create tables", "temporary": "create temporary tables"}
        remedy = "GRANT CREATE ON SCHEMA public, GRANT TEMPORARY ON DATABASE, to this role."
        found = f"{row['role']} may not {' nor '.join(what[name] for name in lacks)}"
        return Finding("rights", Level.PROBLEM, found, remedy)
    return ok("rights", f"{row['role']} may create what is needed")


async def _schema(connection: Connection) -> Finding:
    try:
        await check_fills_table(connection)
        missing = await pending(connection)
    except VigilError as error:
        return Finding("schema", Level.PROBLEM, str(error), error.hint)
    if missing:
        names = ", ".join(migration.name for migration in missing)
        return Finding(
            "schema", Level.WARNING, f"not applied yet: {names}", "`vigil-backfill migrate`; a run does it too."
        )
    return ok("schema", "up to date")


def _disk(settings: Settings) -> Finding:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:,.1f} GiB free for the embedded Postgres in {settings.data_dir}"
    if free < FREE_BYTES:
        return Finding(
            "disk", Level.WARNING, found, "A million fills take some 0.4 GiB: free some, or set VIGIL_DATA_DIR."
        )
    return ok("disk", found)


async def _exchange(settings: Settings) -> AsyncIterator[Finding]:
    """Each lane asks by itself, so that one that is cut off is seen."""
    try:
        api = HyperliquidAPI(settings)
        async with api:
            probes = [api.probe(number) for number in range(len(api.lanes))]
            for lane, told in zip(api.lanes, await asyncio.gather(*probes, return_exceptions=True), strict=True):
                if isinstance(told, ExchangeThrottled):
                    yield Finding(f"lane {lane.name}", Level.WARNING, str(told), BUSY_LANE)
                elif isinstance(told, VigilError):
                    remedy = told.hint or "Check VIGIL_API_URL and the way there."
                    yield Finding(f"lane {lane.name}", Level.PROBLEM, str(told), remedy)
                elif isinstance(told, BaseException):
                    raise told
                else:
                    for finding in _answer(f"lane {lane.name}", told.seconds, told.skew):
                        yield finding
    except VigilError as error:
        yield Finding("exchange", Level.PROBLEM, str(error), error.hint)


def _answer(subject: str, seconds: float, skew: timedelta | None) -> Iterator[Finding]:
    yield ok(subject, f"the exchange answers, after {seconds * 1000:,.0f} ms")
    if skew is not None and abs(skew) > timedelta(seconds=SKEW_SECONDS):
        found = f"this machine's differs from the exchange's by {skew.total_seconds():+.0f} s"
        yield Finding(
            "clock", Level.WARNING, found, "Set it by NTP: a window that ends now ends too early, or too late."
        )


def settings_told(settings: Settings, origin: Callable[[str], str]) -> list[tuple[str, str, str]]:
    """Name, value and origin of each setting; what is secret in it is not told."""
    told = []
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if field == "api_url":
            value = settings.shown_api_url
        if field == "lane":  # a proxy's URL may hold a password
            value = ",".join(lane.name for lane in read_lanes(settings.lane))
        shown = "" if value is None else "***" if hasattr(value, "get_secret_value") else str(value)
        told.append((f"VIGIL_{field.upper()}", shown, origin(field)))
    return told
