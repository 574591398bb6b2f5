"""What can be proven of a user's history, and what can't. Pure: it decides, others gather and store.

Theory of operation. Every fill of a perpetual says what the position was before it, so fills of one
coin form a chain: `start_position + signed size` of one is `start_position` of the next. A chain that
begins at 0 and has no broken link lacks nothing that moved the position. A broken link is a hole, and
the difference is the least size that is missing. Spot and outcome coins have no such chain: they are
transferred, split and merged.

`CoinEvidence` is what one pass over the rows finds; `sql/verdict_evidence.sql` finds it for many users
at once, and `gather` here is the same in a few lines, for rows in memory, and what the SQL is tested
against. `verdict` turns it, with the facts known of the user, into words.

How a chain is followed, in both:
- first in the order `time, seq, tid, oid, side`. If it holds throughout, that order is one in which
  all rows fit, which is the proof. Almost every coin ends here.
- else both halves of a self-trade (2023: same trade, both sides, same start) count as no move;
- and each millisecond that is broken is looked at as a graph, positions the nodes and fills the edges: some
  order makes a chain if and only if the graph has an Eulerian trail. At most one node has one more fill
  leaving than arriving (the entry), at most one the opposite (the exit), and all fills are reached from
  the entry. The trail's order is not needed: neighbours only meet its ends.
- A round trip (no entry, no exit) in a millisecond whose order is not known (`seq` is missing, double, or of two
  endpoints: slices of TWAP orders are numbered apart) may begin at each of its positions: it must touch the
  position that the milliseconds before it left, and leaves it where it was.
- A millisecond that closes in no order is taken as listed, and its breaks counted in that order.

What no chain can see: fills that are missing and return to the very position they left, be it a whole round
trip or all of a coin's; a first hole where the position happened to be 0; and which fills are missing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import groupby, pairwise
from typing import NamedTuple

from vigil.cursor import Gap

TOLERANCE = Decimal("1e-6")
"""Positions closer than this are one: a tenth of the smallest lot of a perpetual seen (0.00001)."""

RELATIVE_TOLERANCE = Decimal("1e-12")
"""The same for large positions, as a share: a printed float is right to about 1e-16 of its value."""

RETENTION_ROWS = 10_000
"""Rows of one user that the exchange keeps in reach, by its documentation. Those measured had that or more."""

OPENED_MS = 1_675_209_600_000
"""2023-02-01, before the first recorded fill (May 2023): a window that starts later may begin with open positions."""

INDEX_LAG_MS = 60_000
"""A window that ended this shortly before it was read to its end left out nothing worth counting."""


class Verdict(StrEnum):
    """What is known of the completeness of a history."""

    COMPLETE = "complete"  # every perp begins at position 0, and every link holds
    TRUNCATED = "truncated"  # older fills existed and are out of reach
    GAP = "gap"  # fills are missing between others, or known to be missing
    EMPTY = "empty"  # nothing within reach
    UNVERIFIED = "unverified"  # nothing is known to be missing, and nothing proves that nothing is


class Cause(StrEnum):
    """Why a verdict is not better, as far as that is known; several may apply."""

    RETENTION = "retention"  # as many rows are known as the exchange keeps: older ones may be out of reach
    RETENTION_UNKNOWN = "retention_unknown"  # how many rows came after the window is not known
    TWAP = "twap"  # executions of TWAP orders are served elsewhere, and were not asked for
    WINDOW_START = "window_start"  # the window asked for starts late: the position may be older than it
    RECORDED_GAP = "recorded_gap"  # the walk itself noted that rows may be missing (backfill_gaps)
    REJECTED_ROWS = "rejected_rows"  # rows were served that could not be stored as fills
    UNFINISHED = "unfinished"  # the window has not been read to its end
    NO_START_POSITION = "no_start_position"  # rows (of archives) do not tell their position
    ONLY_SPOT = "only_spot"  # spot and outcome coins have no chain
    NOT_JUDGED = "not_judged"  # the database could not gather the evidence
    LIFETIME_VOLUME = "lifetime_volume"  # the exchange counts a volume for a user of whom nothing is in reach


class Row(NamedTuple):
    """What `gather` reads of a fill; `archived` means that it came from an archive (`block_time` is set)."""

    time_ms: int
    coin: str
    side: str
    px: Decimal
    sz: Decimal
    start_position: Decimal | None
    oid: int
    tid: int
    hash: str | None = None
    crossed: bool | None = None
    seq: int | None = None
    twap_id: int | None = None
    archived: bool = False


@dataclass(frozen=True, slots=True)
class CoinEvidence:
    """What the rows of one user and coin say. The fields are the columns of `verdict_evidence.sql`.

    `missing` is the sum of the differences at broken links, in coins: the least size that is missing.
    A break lies between two fills: after `…_from_ms`, at or before `…_to_ms`. Positions are None and
    `links` 0 where a coin has no chain.
    """

    coin: str
    chained: bool
    rows: int
    notional: Decimal
    first_ms: int
    last_ms: int
    first_position: Decimal | None = None
    last_position: Decimal | None = None
    links: int = 0
    broken: int = 0
    missing: Decimal = Decimal(0)
    first_break_from_ms: int | None = None
    first_break_to_ms: int | None = None
    last_break_from_ms: int | None = None
    last_break_to_ms: int | None = None
    self_trades: int = 0
    """Pairs that count as no move; looked for only where the chain breaks without."""
    twap_rows: int = 0
    archive_rows: int = 0
    derived_tid_rows: int = 0
    """Rows of 2023, to which the exchange gave no `tid`."""
    unsequenced_rows: int = 0
    blind_rows: int = 0
    """Rows without `start_position`: the chain can't be followed through them."""


@dataclass(frozen=True, slots=True)
class UserFacts:
    """What is known of a user beside its rows. Times in ms; the window is [start, end)."""

    user_address: str
    completed: bool
    window_start_ms: int
    window_end_ms: int
    completed_ms: int | None = None
    rows_after_window: int = 0
    """Rows known (from archives) at or after the window's end: they count against what the exchange keeps."""
    gaps: tuple[Gap, ...] = ()
    rejected_rows: int = 0
    slices_read: bool = False
    """Whether the executions of TWAP orders were asked for as well."""
    uncapped: bool = False
    """Whether it was read to the end at a source that keeps every fill there was."""
    lifetime_volume: Decimal | None = None
    """As the exchange reports it. Its meaning is unproven: a share to show, never a proof."""


@dataclass(frozen=True, slots=True)
class CoinVerdict:
    """One coin's verdict, with the evidence it rests on; `why` is one sentence for people."""

    coin: str
    verdict: Verdict
    causes: tuple[Cause, ...]
    why: str
    evidence: CoinEvidence


@dataclass(frozen=True, slots=True)
class UserVerdict:
    """A user's verdict; `causes` are those of the coins that led to it, and the user's own."""

    user_address: str
    verdict: Verdict
    causes: tuple[Cause, ...]
    why: str
    coins: tuple[CoinVerdict, ...]
    facts: UserFacts

    @property
    def notional(self) -> Decimal:
        """Price times size of all rows known."""
        return sum((one.evidence.notional for one in self.coins), Decimal(0))

    @property
    def volume_share(self) -> Decimal | None:
        """`notional` as a share of the lifetime volume that the exchange reports, if that is known."""
        volume = self.facts.lifetime_volume
        return self.notional / volume if volume else None


def is_chained(coin: str) -> bool:
    """Whether fills of `coin` form a chain: a perpetual (also `xyz:NVDA`), not spot or an outcome."""
    return "/" not in coin and not coin.startswith(("@", "#"))


def agree(one: Decimal, other: Decimal) -> bool:
    """Whether two printed positions are the same."""
    return abs(one - other) <= max(TOLERANCE, RELATIVE_TOLERANCE * max(abs(one), abs(other)))


# The verdict


def verdict(facts: UserFacts, evidence: Iterable[CoinEvidence]) -> UserVerdict:
    """Judge a user and each of its coins."""
    known = sorted(evidence, key=lambda one: one.coin)
    retention = _retention(facts, known)
    coins = tuple(_judge_coin(one, facts, retention) for one in known)
    word, causes, why = _judge_user(facts, coins, retention)
    return UserVerdict(facts.user_address, word, causes, why, coins, facts)


_Judgement = tuple[Verdict, tuple[Cause, ...], str]


def _retention(facts: UserFacts, known: Sequence[CoinEvidence]) -> tuple[Cause, ...]:
    """What the exchange's retention may have cost: nothing, something, or unknown.

    It counts the user's rows up to today, not those of the window. Slices of TWAP orders are no part of it.
    """
    if facts.uncapped:
        return ()
    if sum(one.rows - one.twap_rows for one in known) >= RETENTION_ROWS:
        return (Cause.RETENTION,)
    read_to_now = facts.completed_ms is not None and facts.window_end_ms >= facts.completed_ms - INDEX_LAG_MS
    return () if facts.rows_after_window or read_to_now else (Cause.RETENTION_UNKNOWN,)


def _judge_coin(one: CoinEvidence, facts: UserFacts, retention: tuple[Cause, ...]) -> CoinVerdict:
    word, causes, why = _judged_coin(one, facts, retention)
    return CoinVerdict(one.coin, word, causes, why, one)


def _judged_coin(one: CoinEvidence, facts: UserFacts, retention: tuple[Cause, ...]) -> _Judgement:
    if not one.chained:
        return Verdict.UNVERIFIED, (Cause.ONLY_SPOT,), f"{one.coin} is no perpetual: its fills form no chain."
    if one.blind_rows or one.first_position is None:
        why = f"{one.blind_rows:,} of {one.rows:,} rows of {one.coin} do not tell their start position."
        return Verdict.UNVERIFIED, (Cause.NO_START_POSITION,), why
    if one.broken:
        return Verdict.GAP, _causes_of_breaks(one, facts), _tell_breaks(one)
    if not agree(one.first_position, Decimal(0)):
        return _judge_open_start(one, facts, retention)
    links = f"{one.coin} starts at 0 and {_count(one.links, 'link holds', 'links hold')}"
    if not facts.completed:
        return Verdict.UNVERIFIED, (Cause.UNFINISHED,), f"{links}, but the window is not read to its end."
    if Cause.RETENTION in retention:
        why = f"{links}, but so many rows are known that older ones, before a moment without position, may be gone."
        return Verdict.UNVERIFIED, retention, why
    return Verdict.COMPLETE, retention, f"{links}."


def _causes_of_breaks(one: CoinEvidence, facts: UserFacts) -> tuple[Cause, ...]:
    from_ms, to_ms = one.first_break_from_ms, one.last_break_to_ms
    assert from_ms is not None and to_ms is not None  # noqa: S101, PT018  there are breaks
    causes = []
    if any(gap.from_ms <= to_ms and from_ms <= gap.to_ms for gap in facts.gaps):
        causes.append(Cause.RECORDED_GAP)
    if facts.rejected_rows:
        causes.append(Cause.REJECTED_ROWS)
    if not facts.slices_read:
        causes.append(Cause.TWAP)
    return tuple(causes)


def _judge_open_start(one: CoinEvidence, facts: UserFacts, retention: tuple[Cause, ...]) -> _Judgement:
    """The first fill known found a position there already. Who opened it, and where is that?"""
    start = f"The first fill of {one.coin} known ({_day(one.first_ms)}) found a position of {one.first_position:f}"
    twap = () if facts.slices_read else (Cause.TWAP,)
    if Cause.RETENTION in retention:
        return Verdict.TRUNCATED, (*retention, *twap), f"{start}; the exchange no longer has what opened it."
    if facts.window_start_ms > OPENED_MS:
        causes = (Cause.WINDOW_START, *retention, *twap)
        return Verdict.UNVERIFIED, causes, f"{start}, which may be older than the window asked for."
    if not retention and twap:
        why = f"{start}, and the exchange still has all it serves here: executions of a TWAP order would explain it."
        return Verdict.GAP, twap, why
    return Verdict.TRUNCATED, (*retention, *twap), f"{start}; what opened it is out of reach."


def _judge_user(facts: UserFacts, coins: Sequence[CoinVerdict], retention: tuple[Cause, ...]) -> _Judgement:
    """The worst of what is said: a hole, a lost beginning, an open end, no proof."""
    holes = [one for one in coins if one.verdict is Verdict.GAP]
    cut = [one for one in coins if one.verdict is Verdict.TRUNCATED]
    if holes or facts.gaps or facts.rejected_rows:
        own = _if(bool(facts.gaps), Cause.RECORDED_GAP) + _if(facts.rejected_rows > 0, Cause.REJECTED_ROWS)
        return Verdict.GAP, _causes(own, [*holes, *cut]), _tell_holes(facts, holes, coins)
    if cut:
        perps = sum(one.evidence.chained for one in coins)
        why = f"{_some(len(cut), perps, 'lacks', 'lack')} a beginning. {cut[0].why}"
        return Verdict.TRUNCATED, _causes((), cut), why
    if not facts.completed:
        return Verdict.UNVERIFIED, (Cause.UNFINISHED,), "The window has not been read to its end."
    if sum(one.evidence.rows for one in coins) <= facts.rows_after_window:
        return _judge_nothing(facts, retention)
    return _judge_unbroken(coins)


def _judge_nothing(facts: UserFacts, retention: tuple[Cause, ...]) -> _Judgement:
    """Nothing in the window, nor does a later row point back to it. Does anything else?"""
    if Cause.RETENTION in retention:
        why = f"Nothing within reach: the {facts.rows_after_window:,} rows after it fill what the exchange keeps."
        return Verdict.EMPTY, retention, why
    volume = facts.lifetime_volume
    if volume and not facts.rows_after_window:
        why = f"Nothing within reach, though the exchange counts a lifetime volume of {volume:,.0f}."
        return Verdict.EMPTY, (Cause.LIFETIME_VOLUME, *retention), why
    return Verdict.EMPTY, retention, "Nothing within reach, and nothing says that there ever was."


def _judge_unbroken(coins: Sequence[CoinVerdict]) -> _Judgement:
    perps = [one for one in coins if one.evidence.chained]
    if not perps:
        why = f"Only spot and outcomes ({_count(len(coins), 'coin', 'coins')}): nothing proves or disproves them."
        return Verdict.UNVERIFIED, (Cause.ONLY_SPOT,), why
    doubtful = [one for one in perps if one.verdict is not Verdict.COMPLETE]
    if doubtful:
        why = f"{_some(len(doubtful), len(perps), 'is', 'are')} unproven. {doubtful[0].why}"
        return Verdict.UNVERIFIED, _causes((), doubtful), why
    links = sum(one.evidence.links for one in perps)
    what = "The one perp starts" if len(perps) == 1 else f"All {len(perps):,} perps start"
    why = f"{what} at 0 and {_count(links, 'link holds', 'links hold')}."
    return Verdict.COMPLETE, _causes((), perps), why


def _causes(own: tuple[Cause, ...], coins: Iterable[CoinVerdict]) -> tuple[Cause, ...]:
    return tuple(dict.fromkeys([*own, *(cause for one in coins for cause in one.causes)]))


def _if(condition: bool, cause: Cause) -> tuple[Cause, ...]:
    return (cause,) if condition else ()


# Sentences


def _tell_holes(facts: UserFacts, holes: Sequence[CoinVerdict], coins: Sequence[CoinVerdict]) -> str:
    if holes:
        perps = sum(one.evidence.chained for one in coins)
        return f"{_some(len(holes), perps, 'lacks', 'lack')} fills. {holes[0].why}"
    if facts.rejected_rows:
        rows = _count(facts.rejected_rows, "row was", "rows were")
        return f"{rows} served that could not be stored as fills (rejected_fills)."
    first = facts.gaps[0]
    return f"While reading, rows may have been lost: {first.kind}, {_day(first.from_ms)} to {_day(first.to_ms)}."


def _tell_breaks(one: CoinEvidence) -> str:
    assert one.first_break_from_ms is not None and one.first_break_to_ms is not None  # noqa: S101, PT018
    return (
        f"{one.coin} breaks at {one.broken:,} of {_count(one.links, 'link', 'links')}, first between"
        f" {_day(one.first_break_from_ms)} and {_day(one.first_break_to_ms)}; at least {one.missing:f} is missing."
    )


def _some(some: int, of: int, singular: str, plural: str) -> str:
    return f"{some:,} of {_count(of, 'perp', 'perps')} {singular if some == 1 else plural}"


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}"


# The evidence, from rows in memory


def gather(rows: Iterable[Row]) -> list[CoinEvidence]:
    """The evidence of one user's rows, given in any order: what `verdict_evidence.sql` returns for that user."""
    coins: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        coins[row.coin].append(row)
    return [_gather_coin(coin, sorted(coins[coin], key=_listed)) for coin in sorted(coins)]


def _listed(row: Row) -> tuple[int, bool, int, int, int, str]:
    return row.time_ms, row.seq is None, row.seq or 0, row.tid, row.oid, row.side


def _gather_coin(coin: str, rows: Sequence[Row]) -> CoinEvidence:
    chain = _Chain()
    unsequenced = sum(row.seq is None for row in rows)
    blind = sum(row.start_position is None for row in rows)
    slices = sum(row.twap_id is not None for row in rows)
    if is_chained(coin):
        chain = _follow_listed(rows)
        begins_late = chain.first is not None and not agree(chain.first, Decimal(0))
        mixed = unsequenced > 0 or 0 < slices < len(rows)
        if not blind and (chain.breaks or (begins_late and mixed)):
            chain = _follow_reordered(rows)
    first, last = (chain.breaks[0], chain.breaks[-1]) if chain.breaks else (None, None)
    return CoinEvidence(
        coin,
        is_chained(coin),
        len(rows),
        sum((row.px * row.sz for row in rows), Decimal(0)),
        rows[0].time_ms,
        rows[-1].time_ms,
        chain.first,
        chain.last,
        chain.links,
        len(chain.breaks),
        sum((one.size for one in chain.breaks), Decimal(0)),
        first.from_ms if first else None,
        first.to_ms if first else None,
        last.from_ms if last else None,
        last.to_ms if last else None,
        chain.self_trades,
        twap_rows=slices,
        archive_rows=sum(row.archived for row in rows),
        derived_tid_rows=sum(row.tid < 0 for row in rows),
        unsequenced_rows=unsequenced,
        blind_rows=blind,
    )


class _Break(NamedTuple):
    from_ms: int
    to_ms: int
    size: Decimal


class _Step(NamedTuple):
    """A row as a move from one position to another; None where the row does not tell."""

    time_ms: int
    start: Decimal | None
    end: Decimal | None


class _Chain:
    """What is found while a coin's chain is followed."""

    def __init__(self) -> None:
        self.first: Decimal | None = None
        self.last: Decimal | None = None
        self.links = 0
        self.breaks: list[_Break] = []
        self.self_trades = 0

    def link(self, from_ms: int, to_ms: int, left: Decimal | None, found: Decimal | None) -> None:
        if left is None or found is None:
            return
        self.links += 1
        if not agree(left, found):
            self.breaks.append(_Break(from_ms, to_ms, abs(found - left)))


def _moves(row: Row) -> Decimal:
    return row.sz if row.side == "B" else -row.sz


def _follow_listed(rows: Sequence[Row]) -> _Chain:
    chain = _Chain()
    steps = [
        _Step(row.time_ms, row.start_position, None if row.start_position is None else row.start_position + _moves(row))
        for row in rows
    ]
    for one, after in pairwise(steps):
        chain.link(one.time_ms, after.time_ms, one.end, after.start)
    chain.first, chain.last = steps[0].start, steps[-1].end
    return chain


class _Moment(NamedTuple):
    """A coin's rows of one millisecond. A round trip has no entry of its own: any of its starts may be it."""

    time_ms: int
    starts: list[Decimal]
    entry: Decimal | None
    exit: Decimal | None
    links: int
    breaks: list[_Break]


def _follow_reordered(rows: Sequence[Row]) -> _Chain:
    """Follow the chain with the order inside each millisecond open. All rows tell their start position."""
    chain = _Chain()
    halves = _self_traded(rows)
    chain.self_trades = len(halves) // 2
    moments = []
    for time_ms, group in groupby(enumerate(rows), key=lambda one: one[1].time_ms):
        numbered = list(group)
        ordered = _is_ordered([row for _, row in numbered])
        starts = [row.start_position for _, row in numbered if row.start_position is not None]
        ends = [
            start + (Decimal(0) if place in halves else _moves(row))
            for (place, row), start in zip(numbered, starts, strict=True)
        ]
        moments.append(_moment(time_ms, starts, ends, ordered=ordered))
    position = chain.first = _where_it_begins(moments)
    before_ms = moments[0].time_ms
    for place, moment in enumerate(moments):
        if place:
            found = _nearest(moment.starts, position) if moment.entry is None else moment.entry
            chain.link(before_ms, moment.time_ms, position, found)
        chain.links += moment.links
        chain.breaks += moment.breaks
        position = position if moment.exit is None else moment.exit
        before_ms = moment.time_ms
    chain.last = position
    return chain


def _is_ordered(rows: Sequence[Row]) -> bool:
    """Whether `seq` tells the order of these rows of one millisecond."""
    places = {row.seq for row in rows if row.seq is not None}
    return len(places) == len(rows) and len({row.twap_id is None for row in rows}) == 1


def _self_traded(rows: Sequence[Row]) -> set[int]:
    """The places of rows that are halves of self-trades: one trade, both its sides, found at one position."""
    trades: defaultdict[object, dict[str, list[int]]] = defaultdict(lambda: {"A": [], "B": []})
    for place, row in enumerate(rows):
        if row.tid and row.side in "AB":
            taker = None if row.crossed is None else (row.side == "B") == row.crossed
            trade = (row.time_ms, row.start_position, row.px, row.sz, row.hash, max(row.tid, -1), taker)
            trades[trade][row.side].append(place)
    return {
        place
        for sides in trades.values()
        for places in sides.values()
        for place in places[: min(len(sides["A"]), len(sides["B"]))]
    }


def _moment(time_ms: int, starts: list[Decimal], ends: list[Decimal], *, ordered: bool) -> _Moment:
    breaks = [
        _Break(time_ms, time_ms, abs(start - end))
        for end, start in zip(ends[:-1], starts[1:], strict=True)
        if not agree(end, start)
    ]
    links = len(starts) - 1
    as_listed = _Moment(time_ms, starts, starts[0], ends[-1], links, breaks)
    if not links or (not breaks and (ordered or not agree(starts[0], ends[-1]))):
        return as_listed
    trail = find_trail(starts, ends)
    return as_listed if trail is None else _Moment(time_ms, starts, *trail, links, [])


def find_trail(starts: Sequence[Decimal], ends: Sequence[Decimal]) -> tuple[Decimal | None, Decimal | None] | None:
    """Where the chain that fills of one millisecond make in some order enters and leaves.

    (None, None) if it is a round trip, which may begin at any of its positions; None if no order makes a chain.
    """
    nodes = _nodes([*starts, *ends])
    edges = [(nodes[start], nodes[end]) for start, end in zip(starts, ends, strict=True)]
    surplus = Counter(start for start, _ in edges)
    surplus.subtract(end for _, end in edges)
    entries = [node for node, more in surplus.items() if more > 0]
    if sum(surplus[node] for node in entries) > 1:
        return None
    reached, ahead = set[int](), [entries[0] if entries else edges[0][0]]
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += [end for start, end in edges if start == node]
    if any(start not in reached for start, _ in edges):
        return None
    if not entries:
        return None, None
    exits = [node for node, more in surplus.items() if more < 0]
    return min(v for v in starts if nodes[v] == entries[0]), min(v for v in ends if nodes[v] == exits[0])


def _nodes(positions: Iterable[Decimal]) -> dict[Decimal, int]:
    """A number for each position; those that agree with a neighbour share one."""
    numbers: dict[Decimal, int] = {}
    number, below = -1, None
    for position in sorted(set(positions)):
        if below is None or not agree(below, position):
            number += 1
        numbers[position] = number
        below = position
    return numbers


def _nearest(positions: Iterable[Decimal], to: Decimal) -> Decimal:
    return min(positions, key=lambda one: (abs(one - to), one))


def _where_it_begins(moments: Sequence[_Moment]) -> Decimal:
    """The position before the first row. A first round trip fits what follows; if all are such, what most touch."""
    first = moments[0]
    if first.entry is not None:
        return first.entry
    likely = next((moment.entry for moment in moments if moment.entry is not None), None)
    if likely is None:
        touched = Counter(one for moment in moments for one in {start.quantize(TOLERANCE) for start in moment.starts})
        likely = min(touched, key=lambda one: (-touched[one], abs(one), one))
    return _nearest(first.starts, likely)
