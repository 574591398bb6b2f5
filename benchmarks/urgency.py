"""Whose history is fetched first: rows saved by urgency, by first come first served, and by chance.

    python -m benchmarks.urgency [--users 200] [--hours 3,12,48]
    python -m benchmarks.urgency --model

A quarter of the users have long histories, and some of all trade on at paces of their own, which
pushes their old fills out of reach. An archive of the last two days is in `fills` when a run starts, an
hour old. The same users with the same budget are read by a whole `Run` in each of the three orders, at
loads at which reading everybody takes so many hours. Simulated time goes by with the weight that
is spent and with nothing else, so the machine's speed plays no part.
Database: VIGIL_DATABASE_URL (an empty one), or an embedded Postgres.

`--model` compares further orders on a model of 3,000 users, with nothing but arithmetic.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from vigil import urgency as urgency_module
from vigil.claims import Window
from vigil.db import Connection, Link, session, sql
from vigil.embedded import embedded_postgres
from vigil.pipeline import Run, Twap, prepare_database
from vigil.settings import load_settings
from vigil.simulator import History, Population, Simulator, SimulatorConfig
from vigil.simulator.life import LAST_MS
from vigil.urgency import HOUR_MS, REACH_ROWS, Estimate, Urgency, weight

WINDOW = Window(1_672_531_200_000, 1_753_574_400_000)
ARCHIVE_HOURS, UNKNOWN_HOURS = 48, 1
START_MS = LAST_MS + (ARCHIVE_HOURS + UNKNOWN_HOURS) * HOUR_MS
PACES = (0.0, 0.0, 0.0, 5.0, 20.0, 60.0, 150.0, 400.0)  # fills per hour
LONGEST = (2_000, 15_000)  # rows of a long history
MODEL_HOURS = (3.0, 30.0, 300.0)
ORDERS = ("urgency", "first come", "random")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Market(Simulator):
    """Users of different paces; its clock is the weight spent, `weight_per_hour`."""

    def __init__(self, users: int, seed: int) -> None:
        rng = random.Random(seed)
        low, high = LONGEST
        lengths = {i: round(low * (high / low) ** rng.random()) for i in range(0, users, 4)}
        super().__init__(
            SimulatorConfig(users=users, seed=seed, lengths=lengths, start_now_ms=START_MS, weight_per_minute=0)
        )
        self.weight_per_hour = float("inf")
        self._traders = {
            pace: Population(
                users, seed=seed, lengths=lengths, moving=1.0, moving_fills_per_hour=pace, start_now_ms=LAST_MS
            )
            for pace in set(PACES)
        }
        self._pace = [rng.choice(PACES) for _ in range(users)]
        self.population.history = self.history  # type: ignore[method-assign]  # a pace for each, not one for all

    def history(self, index: int, now_ms: int = 0) -> History:
        return self._traders[self._pace[index]].history(index, now_ms)

    def now_ms(self) -> int:
        return START_MS + int(self.stats.weight_spent / self.weight_per_hour * HOUR_MS)

    def within_reach(self, now_ms: int) -> list[int]:
        """Of each user: rows of the window that the exchange shows at that moment."""
        found = []
        for index in range(self.population.size):
            times = self.history(index, now_ms).times
            oldest = max(0, bisect_right(times, now_ms) - REACH_ROWS)
            first = max(oldest, bisect_left(times, WINDOW.start_ms))
            found.append(max(0, bisect_left(times, WINDOW.end_ms) - first))
        return found


class GivenOrder(Urgency):
    """Whatever order is stored stays."""

    async def keep(self) -> None:
        await asyncio.Event().wait()


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", default="3,12,48")
    parser.add_argument("--model", action="store_true")
    options = parser.parse_args(arguments)
    if options.model:
        model(options.seed)
        return
    urgency_module.PAUSE_SECONDS = 0.5  # some minutes of the simulated time
    if url := os.environ.get("VIGIL_DATABASE_URL"):
        asyncio.run(measure(url, options))
        return
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as directory, embedded_postgres(Path(directory)) as dsn:
        asyncio.run(measure(dsn, options))


async def measure(dsn: str, options: argparse.Namespace) -> None:
    await prepare_database(dsn)
    market = Market(options.users, options.seed)
    reach, later = market.within_reach(START_MS), market.within_reach(START_MS + HOUR_MS)
    whole_weight = sum(map(weight, reach))
    async with session(dsn) as connection:
        await load_archive(connection, market)
        print(f"\n{options.users} users, {sum(reach):,} rows of the window within reach: {whole_weight:,.0f} weight")
        print(f"lost in the first hour if nobody is read: {sum(reach) - sum(later):,}", end="")
        print(f"; estimated {await estimated_loss(dsn, connection, market):,.0f}")
        print(f"{'load':>6} {'order':12} {'saved':>9} {'lost':>8} {'lost, of what':>14} {'seconds':>8}")
        for hours in map(float, options.hours.split(",")):
            lost: dict[str, int] = {}
            for order in ORDERS:
                exchange = Market(options.users, options.seed)
                exchange.weight_per_hour = whole_weight / hours
                started = time.monotonic()
                saved = await read(dsn, connection, exchange, order, options.seed)
                lost[order] = sum(reach) - saved
                share = lost["urgency"] / max(1, lost[order])
                seconds = time.monotonic() - started
                print(f"{hours:4g} h {order:14} {saved:9,} {lost[order]:8,} {share:13.2f} {seconds:9.0f}", flush=True)


async def load_archive(connection: Connection, market: Market) -> None:
    """What archives hold: all that was traded after the window and before they end."""
    await connection.execute("CREATE TEMPORARY TABLE archive (LIKE fills)")
    columns = ("user_address", "time", "coin", "side", "px", "sz", "oid", "tid")
    for index in range(market.population.size):
        await connection.copy_records_to_table("archive", columns=columns, records=list(rows_after(market, index)))


def rows_after(market: Market, index: int) -> Iterator[tuple[Any, ...]]:
    address, end_ms = market.population.address(index), START_MS - UNKNOWN_HOURS * HOUR_MS
    history = market.history(index, end_ms)
    for text in history.rows[bisect_left(history.times, WINDOW.end_ms) : bisect_right(history.times, end_ms)]:
        row = msgspec.json.decode(text)
        moment = EPOCH + timedelta(milliseconds=row["time"])
        numbers = (Decimal(row["px"]), Decimal(row["sz"]), row["oid"], row["tid"])
        yield (address, moment, row["coin"], row["side"], *numbers)


async def begin_anew(connection: Connection, users: Sequence[str]) -> None:
    await connection.execute("TRUNCATE fills, backfill_progress, backfill_verdicts, backfill_gaps, backfill_workers")
    await connection.execute("INSERT INTO fills SELECT * FROM archive")
    await connection.execute("INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[])", users)
    await connection.execute("ANALYZE fills, backfill_progress")


async def estimated_loss(dsn: str, connection: Connection, market: Market) -> float:
    """Rows an hour, as `status` would show it."""
    await begin_anew(connection, market.population.addresses(0))
    link = Link(dsn, load_settings())
    await Urgency(link, WINDOW.end_ms, now_ms=lambda: START_MS).estimate()
    await link.close()
    row = await connection.fetchrow(sql("urgency_status"))
    assert row is not None
    return float(row["lost_per_hour"])


async def read(dsn: str, connection: Connection, market: Market, order: str, seed: int) -> int:
    """Read everybody in that order; returns how many rows of the window have been saved."""
    users = market.population.addresses(0)
    await begin_anew(connection, users)
    async with market:
        settings = load_settings(
            api_url=market.url, weight_per_minute=10**9, batch_seconds=0.05, concurrency=4, progress_seconds=3600
        )
        run = Run(settings, dsn, WINDOW, twap=Twap.NEVER)
        run.urgency.now_ms = market.now_ms
        if order == "urgency":
            await run.urgency.estimate()  # as the run before has left it
        else:
            run.urgency = GivenOrder(Link(dsn, settings), WINDOW.end_ms)
            await give_order(connection, users, order, seed)
        tally = await run.execute()
        assert tally.exit_code == 0, tally
    return int(await connection.fetchval("SELECT sum(fills_count) FROM backfill_progress"))


async def give_order(connection: Connection, users: list[str], order: str, seed: int) -> None:
    """First come: by the first row after the window; who has none comes last."""
    rows = await connection.fetch("SELECT user_address, min(time) AS time FROM archive GROUP BY 1")
    first: dict[str, datetime] = {row["user_address"]: row["time"] for row in rows}
    chance = random.Random(seed).random
    keys = {user: (user not in first, first.get(user, EPOCH)) if order == "first come" else chance() for user in users}
    ranked = sorted(users, key=lambda user: keys[user])
    ranks = [float(len(users) - rank) for rank in range(len(users))]
    statement = (
        "UPDATE backfill_progress AS p SET urgency = told.urgency"
        " FROM unnest($1::text[], $2::real[]) AS told (user_address, urgency) WHERE told.user_address = p.user_address"
    )
    await connection.execute(statement, ranked, ranks)


def model(seed: int) -> None:
    """The share of all rows within reach that orders lose, by the hours that reading everybody takes."""
    rng = random.Random(seed)
    users = []
    for _ in range(3_000):
        pace, hours = 10 ** rng.uniform(-1, 3), 10 ** rng.uniform(0, 4)
        rows_after = pace * hours * rng.uniform(0.3, 1)
        users.append((Estimate(rows_after, pace, 0.0), rows_after * math.exp(rng.gauss(0, 2))))
    reach = sum(min(user.within_reach, window) for user, window in users)
    whole_weight = sum(weight(min(user.within_reach, window)) for user, window in users)
    print(f"{'share lost, by load':40}" + "".join(f"{hours:7g} h" for hours in MODEL_HOURS))
    for name in (
        "chance",
        "pace",
        "time left",
        "pace / weight (ours)",
        "odds x pace / weight",
        "lost meanwhile / weight",
    ):
        shares = []
        for hours in MODEL_HOURS:
            key = _keys(hours, random.Random(seed))[name]
            order = sorted(users, key=lambda user: -key(user[0]) if user[0].within_reach else 1.0)
            shares.append(1 - _saved(order, whole_weight / hours) / reach)
        print(f"{name:40}" + "".join(f"{share:8.2%} " for share in shares))


def _keys(hours: float, rng: random.Random) -> dict[str, Callable[[Estimate], float]]:
    def lost_meanwhile(user: Estimate) -> float:
        """Rows that waiting for all others is expected to cost."""
        left = max(user.rows_after, REACH_ROWS - user.fills_per_hour * hours)
        return user.rows_after * math.log(REACH_ROWS / left)

    return {
        "chance": lambda user: rng.random(),
        "pace": lambda user: user.fills_per_hour,
        "time left": lambda user: user.fills_per_hour / user.within_reach,
        "pace / weight (ours)": lambda user: user.fills_per_hour / weight(user.within_reach),
        "odds x pace / weight": lambda user: user.fills_per_hour * user.rows_after / weight(user.at_stake),
        "lost meanwhile / weight": lambda user: lost_meanwhile(user) / weight(user.at_stake),
    }


def _saved(order: Sequence[tuple[Estimate, float]], weight_per_hour: float) -> float:
    hours = saved = 0.0
    for user, window in order:
        left = max(0.0, min(window, user.within_reach - user.fills_per_hour * hours))
        saved += left
        hours += weight(left) / weight_per_hour
    return saved


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
