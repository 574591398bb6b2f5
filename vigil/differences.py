"""What differs between an answer of the exchange and the table, and what a sample of windows proves. Pure.

Rows are told apart by their key. Of a row that both have, each value that the exchange tells must be
in the table: numbers by value, text by letter. A value that the exchange does not tell is no difference
(archives know more, and nothing known is ever replaced by nothing), so `block_time` and `seq`, which it
never tells, are not compared; of `extra` each key that it tells is. A row of the other list of the user
(what TWAP orders executed) is only what it is asked for: it is neither missing nor too much here.

The rule of the comparison is written anew here, apart from the statements that store rows, so that it
would notice what they do wrong.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from vigil.fills import Fill, Key, Stream

CONFIDENCE = 0.95

_NUMERIC = ("px", "sz", "start_position", "closed_pnl", "fee", "builder_fee")
_PLAIN = ("dir", "hash", "crossed", "fee_token", "twap_id", "cloid")
_BISECTIONS = 60  # halve [0, 1] below what a double can tell apart near 1


class Held(NamedTuple):
    """A row of the table: its key, and its columns as the database gives them."""

    key: Key
    columns: Mapping[str, Any]

    @property
    def stream(self) -> Stream:
        """The list that it belongs to. Archives mark the rows of TWAP orders as well."""
        return Stream.FILLS if self.columns["twap_id"] is None else Stream.SLICES


@dataclass(slots=True)
class Difference:
    """An answer set against the table: what it served that is not there, is there otherwise, and is not served."""

    equal: int = 0
    missing: list[Fill] = field(default_factory=list)
    differing: list[tuple[Fill, tuple[str, ...]]] = field(default_factory=list)
    """With the names of the columns."""
    extra: list[Held] = field(default_factory=list)


def compare(served: Iterable[Fill], held: Sequence[Held], stream: Stream) -> Difference:
    """Set what the list `stream` served of a span against all rows that the table has in it."""
    found = Difference()
    rows = {one.key: one for one in held}
    answered = set()
    for fill in served:
        answered.add(fill.key)
        row = rows.get(fill.key)
        if row is None:
            found.missing.append(fill)
        elif columns := differing_columns(fill, row.columns):
            found.differing.append((fill, columns))
        else:
            found.equal += 1
    found.extra = [one for one in held if one.key not in answered and one.stream is stream]
    return found


def differing_columns(fill: Fill, columns: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns in which the table does not have what the exchange tells."""
    differing = []
    for name in _NUMERIC:
        told = getattr(fill, name)
        if told is not None and (columns[name] is None or Decimal(told) != columns[name]):
            differing.append(name)
    for name in _PLAIN:
        told = getattr(fill, name)
        if told is not None and told != columns[name]:
            differing.append(name)
    if fill.liquidation is not None and not _same_json(fill.liquidation, _parsed(columns["liquidation"])):
        differing.append("liquidation")
    known = _parsed(columns["extra"]) or {}
    if any(name not in known or not _same_json(value, known[name]) for name, value in (fill.extra or {}).items()):
        differing.append("extra")
    return tuple(differing)


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text, parse_float=Decimal)


def _same_json(one: Any, other: Any) -> bool:
    """Equal as JSON: numbers by value, but true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_json(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_json, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def shown_columns(counted: Counter[str]) -> str:
    return ", ".join(name for name, _ in sorted(counted.items()))


def upper_bound(differing: int, windows: int, confidence: float = CONFIDENCE) -> float:
    """The share of windows that may differ when `differing` of `windows` drawn at random do.

    The exact binomial bound (Clopper and Pearson), one-sided: were the share larger, a sample with so few
    would come about with a probability of less than 1 - `confidence`. A sample drawn without putting back
    knows a little more, so that the bound errs on the safe side. With none differing it is close to
    3 / `windows` (the rule of three).
    """
    if not 0 <= differing <= windows:
        raise ValueError(f"{differing} of {windows} windows can't differ")
    if differing == windows:
        return 1.0
    low, high = differing / windows, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if at_most(differing, windows, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def at_most(differing: int, windows: int, share: float) -> float:
    """The probability that at most `differing` of `windows` drawn differ when `share` of all do."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(differing >= windows)
    yes, no = math.log(share), math.log1p(-share)
    ways = math.lgamma(windows + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(ways - math.lgamma(k + 1) - math.lgamma(windows - k + 1) + k * yes + (windows - k) * no)
            for k in range(differing + 1)
        ),
    )


def shown_bound(share: float) -> str:
    """A bound in per cent with two significant digits, rounded up so that it still holds."""
    if share <= 0:
        return "0 %"
    percent = share * 100
    digits = 1 - math.floor(math.log10(percent))
    # The bisection ends a hair above the bound: not worth a whole digit.
    rounded = min(math.ceil(round(percent * 10**digits, 6)) / 10**digits, 100.0)
    text = f"{rounded:.{max(digits, 0)}f}"
    return f"{text.rstrip('0').rstrip('.') if digits > 0 else text} %"
