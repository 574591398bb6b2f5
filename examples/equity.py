"""One user's equity curve from the rows of the database: closed P&L less fees, added up, drawn as an SVG file.

    python examples/equity.py 0x…                       # writes equity.svg, prints the sums and whether to trust them
    python examples/equity.py 0x… --by-coin -o out.svg  # a line for each of the coins that moved it most
    python examples/equity.py 0x… --coin BTC --coin ETH

Reads VIGIL_DATABASE_URL, or the embedded Postgres where that is not set, as the commands do; changes nothing.

What such a curve can't show is printed with it: funding, unrealised P&L, deposits and withdrawals are no fills.
Amounts are exact decimals; only the picture rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from vigil.address import normalize_address
from vigil.cli.common import database, require_schema
from vigil.db import Connection, session
from vigil.errors import UsageError, VigilError
from vigil.settings import load_settings

UNIT = "USDC"
"""What most fills settle in; one that settles in something else says so by its fee's token."""

DIGITS = 60  # of the sums: no fill's amounts are cut
COINS_SHOWN = 8

ROWS = """
    SELECT (extract(epoch FROM time) * 1000)::bigint AS time_ms, coin, side, px, closed_pnl, fee, fee_token
    FROM fills WHERE user_address = $1 AND (cardinality($2::text[]) = 0 OR coin = ANY ($2)) ORDER BY time
"""
USER = """
    SELECT state::text, verdict::text, verdict_why, judged_at IS NOT NULL AS judged,
        window_start_ms, window_end_ms, cursor_ms
    FROM backfill_progress WHERE user_address = $1
"""
HOLES = """
    SELECT from_ms, to_ms, 'rows may be missing: ' || kind AS why FROM backfill_gaps WHERE user_address = $1
    UNION ALL
    SELECT (evidence ->> 'first_break_from_ms')::bigint, (evidence ->> 'last_break_to_ms')::bigint,
        'rows are missing: ' || coin || ' breaks'
    FROM backfill_verdicts
    WHERE user_address = $1 AND (cardinality($2::text[]) = 0 OR coin = ANY ($2))
        AND evidence ->> 'first_break_from_ms' IS NOT NULL
    ORDER BY 1
"""

NOT_IN_IT = "Not in it: funding, unrealised P&L of open positions, deposits, withdrawals, transfers, vault shares."


@dataclass
class Line:
    """Fills of one coin, or of all: their sums, and where the sum stood after each millisecond."""

    fills: int = 0
    closed_pnl: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    points: list[tuple[int, Decimal]] = field(default_factory=list)

    @property
    def net(self) -> Decimal:
        return self.closed_pnl - self.fees

    def add(self, time_ms: int, closed_pnl: Decimal, fee: Decimal) -> None:
        self.fills += 1
        self.closed_pnl += closed_pnl
        self.fees += fee
        if self.points and self.points[-1][0] == time_ms:
            self.points.pop()
        self.points.append((time_ms, self.net))


@dataclass
class Curve:
    """What a user's rows add up to."""

    total: Line = field(default_factory=Line)
    coins: dict[str, Line] = field(default_factory=dict)
    other_fees: dict[str, Line] = field(default_factory=dict)
    """Fees paid in what was bought, by token: in no sum above. `closed_pnl` is what they were worth at that moment."""
    other_units: dict[str, Line] = field(default_factory=dict)
    """Fills settled in another token, by token: in no sum above."""
    without_pnl: int = 0
    without_fee: int = 0


def is_bought_for_itself(row: Any) -> bool:
    """Buys of spot pairs and outcomes pay their fee in what was bought; all other fills in what they settle in."""
    coin = row["coin"]
    return row["side"] == "B" and (coin.startswith(("@", "#")) or "/" in coin)


def add_up(rows: Iterable[Any]) -> Curve:
    """The curve of rows that come in the order of time."""
    curve = Curve()
    with localcontext(prec=DIGITS):
        for row in rows:
            _add(curve, row)
    return curve


def _add(curve: Curve, row: Any) -> None:
    coin, token = row["coin"], row["fee_token"] or UNIT  # rows of 2023 name no token
    curve.without_pnl += row["closed_pnl"] is None
    curve.without_fee += row["fee"] is None
    pnl, fee = row["closed_pnl"] or Decimal(0), row["fee"] or Decimal(0)
    if token != UNIT:
        bought = is_bought_for_itself(row)
        if not bought:
            curve.other_units.setdefault(token, Line()).add(row["time_ms"], pnl, fee)
            return
        curve.other_fees.setdefault(token, Line()).add(row["time_ms"], fee * row["px"], fee)
        fee = Decimal(0)
    for line in (curve.total, curve.coins.setdefault(coin, Line())):
        line.add(row["time_ms"], pnl, fee)


@dataclass(frozen=True)
class Standing:
    """What is known of the user: whether the curve can be trusted, and where it can't."""

    user: dict[str, Any]
    holes: list[dict[str, Any]]

    @property
    def verdict(self) -> str:
        return str(self.user["verdict"]) if self.user["judged"] else "not judged"

    def sentences(self) -> list[str]:
        """Whether to trust it."""
        told = {
            "complete": "The curve can be trusted: nothing that moved a position of a perp is missing.",
            "truncated": "The curve begins late: older fills are out of the exchange's reach.",
            "gap": "The curve can't be trusted: fills are missing inside, where it is hatched or nobody knows where.",
            "empty": "There is no curve: the exchange had no fills of this user within reach.",
            "unverified": "The curve may lack fills: nothing is known to be missing, nothing proves that nothing is.",
        }
        found = [
            f"verdict: {self.verdict}. {self.user['verdict_why'] or ''}".rstrip()
            if self.user["judged"]
            else "verdict: none yet."
        ]
        found.append(told.get(self.verdict, "The curve can't be trusted yet."))
        if self.user["state"] != "completed":
            to = self.user["cursor_ms"]
            found.append(f"The user is {self.user['state']}" + ("." if to is None else f": read to {_moment(to)}."))
        elif self.user["window_end_ms"] is not None:
            start, end = _moment(self.user["window_start_ms"]), _moment(self.user["window_end_ms"])
            found.append(f"Read for [{start}, {end}); rows outside of it are from archives, as many as there are.")
        return found

    def marks(self, curve: Curve) -> list[tuple[int | None, int, str]]:
        """Spans in which fills may be missing; from None: from the beginning on."""
        points = curve.total.points
        spans: list[tuple[int | None, int, str]] = [(one["from_ms"], one["to_ms"], one["why"]) for one in self.holes]
        if self.verdict == "truncated" and points:
            spans.insert(0, (None, points[0][0], "older fills are out of reach"))
        return spans


async def read(connection: Connection, user: str, coins: Sequence[str] = ()) -> tuple[Curve, Standing]:
    """One snapshot of the user's rows and standing. Raises: UsageError where nobody knows the user."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        known = await connection.fetchrow(USER, user)
        if known is None:
            raise UsageError(f"{user} is not known here.", hint="`vigil-backfill users list` tells who is.")
        curve = add_up(await connection.fetch(ROWS, user, list(coins)))
        holes = [dict(row) for row in await connection.fetch(HOLES, user, list(coins))]
    return curve, Standing(dict(known), holes)


# -- for people -----------------------------------------------------------------------------------


def describe(user: str, curve: Curve, standing: Standing) -> list[str]:
    """The sums, exact, and what to think of them."""
    lines = [user, *standing.sentences(), ""]
    if curve.coins:
        lines += [f"{'coin':<14}{'fills':>9}{f'closed P&L {UNIT}':>26}{'fees':>24}{'net':>26}"]
        ranked = sorted(curve.coins.items(), key=lambda item: -abs(item[1].net))
        lines += [_sums(coin, line) for coin, line in [*ranked, ("all", curve.total)]]
    lines += [""] if curve.coins else ["no fills"]
    for token, line in curve.other_units.items():
        net = f"closed P&L {line.closed_pnl:,f}, fees {line.fees:,f}"
        lines.append(f"{line.fills:,} fills settled in {token} are not in it: {net} {token}.")
    for token, line in curve.other_fees.items():
        worth = f", worth {line.closed_pnl:,f} when bought" if line.closed_pnl else ""
        lines.append(f"Fees in {token} are not taken off: {line.fees:,f} of {line.fills:,} fills{worth}.")
    if curve.without_pnl or curve.without_fee:
        lines.append(f"{curve.without_pnl:,} fills tell no closed P&L, {curve.without_fee:,} no fee: counted as 0.")
    for since, to, why in standing.marks(curve):
        span = f"before {_moment(to)}" if since is None else f"{_moment(since)} to {_moment(to)}"
        lines.append(f"hatched, {span}: {why}")
    return [*lines, NOT_IN_IT]


def _sums(name: str, line: Line) -> str:
    return f"{name:<14}{line.fills:>9,}{line.closed_pnl:>26,f}{line.fees:>24,f}{line.net:>26,f}"


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


# -- the picture ----------------------------------------------------------------------------------

WIDTH, HEIGHT = 960, 460
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 60, 70
COLOURS = ("#0b6e99", "#b3541e", "#3d7d3d", "#8a4fbf", "#a3366b", "#6b6b00", "#00776b", "#555f9e")
DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "4 6", "1 4", "8 2 2 2 2 2")

STYLE = """
    svg { background: #fff; color: #1a1a1a; font: 13px system-ui, sans-serif }
    text { fill: currentColor } .grid { stroke: currentColor; stroke-opacity: .15 } .zero { stroke: currentColor }
    .hole { fill: url(#hatch); stroke: currentColor; stroke-opacity: .4 } .line { fill: none; stroke-width: 1.6 }
    @media (prefers-color-scheme: dark) {
        svg { background: #16181c; color: #e8e8e8 } .line { filter: brightness(1.7) }
    }
"""


class Scale:
    """From time and amount to the picture's x and y."""

    def __init__(self, points: Sequence[tuple[int, Decimal]], marks: Sequence[tuple[int | None, int, str]]) -> None:
        times = [time for time, _ in points] + [time for span in marks for time in span[:2] if time is not None]
        values = [float(value) for _, value in points] + [0.0]
        first, last = min(times), max(times)
        self.first = first - (last - first or 1) * (0.05 if any(since is None for since, _, _ in marks) else 0)
        self.last = max(last, self.first + 1)
        self.low, self.high = min(values), max(values)
        if self.low == self.high:
            self.low, self.high = self.low - 1, self.high + 1

    def x(self, time_ms: float) -> float:
        return LEFT + (time_ms - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def draw(user: str, lines: dict[str, Line], standing: Standing, marks: Sequence[tuple[int | None, int, str]]) -> str:
    """The lines as an SVG document; spans in which fills may be missing are hatched."""
    points = [point for line in lines.values() for point in line.points]
    scale = Scale(points, marks)
    title = f"{user}: closed P&L less fees, {UNIT}; verdict: {standing.verdict}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V7" stroke="currentColor" stroke-opacity=".45"/></pattern></defs>',
        f'<text x="{LEFT}" y="24">{escape(title)}</text>',
        *(_hole(scale, *mark) for mark in marks),
        *_axes(scale),
        *(_path(scale, place, line) for place, line in enumerate(lines.values())),
        *_legend(list(lines)),
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{escape(NOT_IN_IT)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _hole(scale: Scale, since: int | None, to: int, why: str) -> str:
    left, right = scale.x(scale.first if since is None else since), scale.x(to)
    box = f'x="{left:.1f}" y="{TOP}" width="{max(right - left, 2):.1f}" height="{HEIGHT - TOP - BOTTOM}"'
    return f'<rect class="hole" {box}><title>{escape(why)}</title></rect>'


def _axes(scale: Scale) -> list[str]:
    right = WIDTH - RIGHT
    found = [f'<path class="zero" d="M{LEFT} {scale.y(0):.1f}H{right}"/>']
    for value in _round_values(scale.low, scale.high):
        y = scale.y(value)
        found.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        found.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for step, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
        time = scale.first + (scale.last - scale.first) * step / 4
        day = f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d}"
        found.append(f'<text x="{scale.x(time):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="{anchor}">{day}</text>')
    return found


def _round_values(low: float, high: float) -> list[float]:
    """Four to nine multiples of 1, 2 or 5 times a power of ten, within."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = max(size * power for size in (1, 2, 5) if size * power <= (high - low) / 4)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    for size, name in ((1e9, "bn"), (1e6, "m"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:,g} {name}"
    return f"{value:,g}"


def _path(scale: Scale, place: int, line: Line) -> str:
    """Steps, as many as the picture has room for: of each column of it the first, lowest, highest and last."""
    columns: dict[int, list[tuple[int, Decimal]]] = {}
    for point in line.points:
        columns.setdefault(int(scale.x(point[0])), []).append(point)
    kept: list[tuple[int, Decimal]] = []
    for found in columns.values():
        edges = {found[0], found[-1], min(found, key=lambda one: one[1]), max(found, key=lambda one: one[1])}
        kept += sorted(edges)
    moves = [f"M{scale.x(kept[0][0]):.1f} {scale.y(float(kept[0][1])):.1f}"]
    moves += [f"H{scale.x(now[0]):.1f}V{scale.y(float(now[1])):.1f}" for _, now in pairwise(kept)]
    look = f'stroke="{COLOURS[place % len(COLOURS)]}" stroke-dasharray="{DASHES[place % len(DASHES)]}"'
    return f'<path class="line" {look} d="{"".join(moves)}"/>'


def _legend(names: list[str]) -> list[str]:
    if len(names) < 2:
        return []
    found = []
    for place, name in enumerate(names):
        x = LEFT + place * (WIDTH - LEFT - RIGHT) / COINS_SHOWN
        look = f'stroke="{COLOURS[place % len(COLOURS)]}" stroke-dasharray="{DASHES[place % len(DASHES)]}"'
        found.append(
            f'<path class="line" {look} d="M{x:.0f} 44h22"/><text x="{x + 26:.0f}" y="48">{escape(name)}</text>'
        )
    return found


def chosen(curve: Curve, by_coin: bool) -> dict[str, Line]:
    """The lines to draw: the sum, or the coins that moved it most."""
    if not by_coin:
        return {"all": curve.total}
    ranked = sorted(curve.coins.items(), key=lambda item: -abs(item[1].net))
    return dict(ranked[:COINS_SHOWN])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code, as of the commands."""
    parser = argparse.ArgumentParser(description="Draw one user's equity curve from its fills.")
    parser.add_argument("user", metavar="0x…")
    parser.add_argument("-o", "--output", type=Path, default=Path("equity.svg"), help="the picture [equity.svg]")
    parser.add_argument("--coin", action="append", default=[], help="only this coin; repeatable")
    parser.add_argument("--by-coin", action="store_true", help=f"a line a coin, the {COINS_SHOWN} that moved most")
    flags = parser.parse_args(arguments)
    try:
        user = normalize_address(flags.user)
        with database(load_settings()) as dsn:
            curve, standing = asyncio.run(_read(dsn, user, flags.coin))
    except VigilError as error:
        sys.stderr.write(f"error: {error}\n{error.hint}\n")
        return error.exit_code
    sys.stdout.write("\n".join(describe(user, curve, standing)) + "\n")
    if curve.total.points:
        picture = draw(user, chosen(curve, flags.by_coin), standing, standing.marks(curve))
        flags.output.write_text(picture, encoding="utf-8")
        sys.stdout.write(f"drawn: {flags.output}\n")
    return 0


async def _read(dsn: str, user: str, coins: Sequence[str]) -> tuple[Curve, Standing]:
    async with session(dsn) as connection:
        await require_schema(connection)
        return await read(connection, user, coins)


if __name__ == "__main__":
    sys.exit(main())
