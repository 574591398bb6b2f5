"""How a column of theirs becomes one of ours, as SQL: an expression, and when it may be evaluated. Pure.

`fits` guards `value`: it is true for what `value` takes without an error and without losing anything,
NULL for NULL. Whatever does not fit goes aside, where `convert` looks at it row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vigil.adopt.shape import REQUIRED, Column, quoted
from vigil.store import FILLS_COLUMNS

WHOLE = ("smallint", "integer", "bigint")
FLOATS = ("real", "double precision")
EXACT = (*WHOLE, "numeric")
UNADORNED_TEXT = ("text", "character varying")

_AMOUNT = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
# Only what the cast surely takes; the 29th to 31st are looked at aside, since not every month has them.
_INSTANT = (
    r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"([.][0-9]{1,6})?(Z|[+]00(:?00)?)?$"
)
_BIGINT_MAX = 2**63 - 1


class Unit(StrEnum):
    """What a number counts, since 1970."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "µs"
    NANOSECONDS = "ns"

    @property
    def per_second(self) -> int:
        return {"s": 1, "ms": 10**3, "µs": 10**6, "ns": 10**9}[self.value]

    def span(self) -> tuple[int, int]:
        """2020 to 2100: what numbers of this unit are taken for; those of two units never overlap."""
        return 1_577_836_800 * self.per_second, 4_102_444_800 * self.per_second


def unit_of(numbers: list[int]) -> Unit | None:
    """The unit that nine in ten of `numbers` can be of; milliseconds for none at all, None where it is not clear."""
    if not numbers:
        return Unit.MILLISECONDS
    for unit in Unit:
        first, last = unit.span()
        if sum(first <= number < last for number in numbers) * 10 >= len(numbers) * 9:
            return unit
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """`fits` None: whatever there is fits."""

    value: str
    fits: str | None = None

    @property
    def guarded(self) -> str:
        return self.value if self.fits is None else f"CASE WHEN {self.fits} THEN {self.value} END"


def rule(ours: str, theirs: Column, unit: Unit | None = None) -> Rule | None:
    """How `theirs` becomes `ours`; None when values of that type never can. `unit` for times in numbers."""
    name = f"f.{quoted(theirs.name)}"
    match FILLS_COLUMNS[ours]:
        case "text":
            return _text(ours, name, theirs)
        case "numeric":
            return _amount(name, theirs)
        case "bigint" | "integer":
            return _whole(name, theirs)
        case "timestamp with time zone":
            return _instant(name, theirs, unit, exact=ours == "time")
        case "boolean":
            return _truth(name, theirs)
        case _:
            return _json(name, theirs)


def _text(ours: str, name: str, theirs: Column) -> Rule | None:
    if theirs.type in ("json", "jsonb", "boolean") or theirs.category in ("A", "D", "T"):
        return None
    text = f"'0x' || encode({name}, 'hex')" if theirs.type == "bytea" else f"{name}::text"
    if theirs.type == "character":
        text = f"rtrim({text})"
    if ours == "user_address":
        # The length apart from the letters: {40} in the expression would take twice the time.
        return Rule(f"lower({text})", f"length({text}) = 42 AND {text} ~* '^0x[0-9a-f]*$'")
    if ours == "side":
        return Rule(
            f"CASE lower({text}) {' '.join(f'WHEN {_literal(k)} THEN {_literal(v)}' for k, v in SIDES.items())} END",
            f"lower({text}) IN ({', '.join(map(_literal, SIDES))})",
        )
    return Rule(text)


SIDES = {"b": "B", "buy": "B", "bid": "B", "a": "A", "s": "A", "sell": "A", "ask": "A"}
"""Other words for the exchange's two sides."""


def _amount(name: str, theirs: Column) -> Rule | None:
    if theirs.type in WHOLE:
        return Rule(f"{name}::numeric")
    if theirs.type == "numeric":
        return Rule(name, f"{name} - {name} = 0")  # neither NaN nor infinite
    if theirs.type in FLOATS:  # by way of text: the direct cast keeps 15 digits only
        return Rule(f"{name}::text::numeric", f"{name} - {name} = 0")
    if theirs.category == "S":
        return Rule(f"{name}::text::numeric", f"{name}::text ~ '{_AMOUNT}' AND length({name}::text) <= 200")
    return None


def _whole(name: str, theirs: Column) -> Rule | None:
    if theirs.type in WHOLE:
        return Rule(f"{name}::bigint")
    if theirs.type in ("numeric", *FLOATS):
        number = name if theirs.type == "numeric" else f"{name}::text::numeric"
        return Rule(
            f"{name}::bigint",
            f"CASE WHEN {name} - {name} = 0 THEN abs({number}) <= {_BIGINT_MAX} AND trunc({number}) = {number}"
            f" ELSE {name} IS NULL END",
        )
    if theirs.category == "S":
        return Rule(
            f"{name}::text::bigint",
            f"CASE WHEN {name}::text ~ '^-?[0-9]{{1,19}}$' THEN abs({name}::text::numeric) <= {_BIGINT_MAX}"
            f" ELSE {name} IS NULL END",
        )
    return None


def _instant(name: str, theirs: Column, unit: Unit | None, *, exact: bool) -> Rule | None:
    """`exact`: it is the fill's own time, which is whole milliseconds."""
    if theirs.type in ("timestamp with time zone", "timestamp without time zone"):
        value = name if theirs.type.endswith("with time zone") else f"{name} AT TIME ZONE 'UTC'"
        fits = f"{name} >= '1970-01-01' AND {name} < '10000-01-01'"  # which no infinity is
        return Rule(value, f"{fits} AND date_trunc('milliseconds', {name}) = {name}" if exact else fits)
    if theirs.category == "S" and unit is None:
        text = f"{name}::text"
        value = f"CASE WHEN {text} ~ '(Z|[+]00(:?00)?)$' THEN {text} ELSE {text} || 'Z' END::timestamptz"
        whole = f" AND {text} !~ '[.][0-9]{{3}}0*[1-9]'" if exact else ""
        return Rule(value, f"({text} ~ '{_INSTANT}'{whole})")
    if unit is None or not (theirs.category == "S" or theirs.type in ("numeric", *WHOLE, *FLOATS)):
        return None
    return _counted(name, theirs, unit, exact=exact)


def _counted(name: str, theirs: Column, unit: Unit, *, exact: bool) -> Rule:
    first, last = unit.span()
    if (
        theirs.type in WHOLE and unit is Unit.MILLISECONDS
    ):  # most tables, so the quick way: a product below 2**53 is exact
        return Rule(
            f"timestamptz 'epoch' + {name} * interval '1 millisecond'", f"{name} >= {first} AND {name} < {last}"
        )
    number, first_fit = f"{name}::numeric", f"{name} - {name} = 0"
    if theirs.category == "S":
        number, first_fit = f"{name}::text::numeric", f"{name}::text ~ '^[0-9]{{1,19}}$'"
    elif theirs.type in FLOATS:
        number = f"{name}::text::numeric"
    fits = f"{number} >= {first} AND {number} < {last}"
    if exact:  # a whole number of milliseconds
        fits += f" AND mod({number} * 1000, {unit.per_second}) = 0"
    micros = f"trunc({number} * 1000000 / {unit.per_second})"
    # Two parts, because an interval times a number goes through a float of 53 bits.
    value = (
        f"timestamptz 'epoch' + trunc({micros} / 1000000)::bigint * interval '1 second'"
        f" + mod({micros}, 1000000)::bigint * interval '1 microsecond'"
    )
    guarded = fits if theirs.type in WHOLE else f"CASE WHEN {first_fit} THEN {fits} ELSE {name} IS NULL END"
    return Rule(value, f"({guarded})")


def _truth(name: str, theirs: Column) -> Rule | None:
    if theirs.type == "boolean":
        return Rule(name)
    if theirs.type in WHOLE:
        return Rule(f"{name} = 1", f"{name} IN (0, 1)")
    if theirs.category == "S":
        return Rule(
            f"lower({name}::text) IN ('true', 't', '1')",
            f"lower({name}::text) IN ('true', 'false', 't', 'f', '1', '0')",
        )
    return None


def _json(name: str, theirs: Column) -> Rule | None:
    if theirs.type in ("json", "jsonb"):
        return Rule(f"nullif({name}::jsonb, 'null')", f"jsonb_typeof({name}::jsonb) IN ('object', 'null')")
    if theirs.category == "S":  # only Python can tell whether it is JSON: aside, but for the empty ones
        return Rule("NULL::jsonb", f"lower({name}::text) IN ('', 'null', '{{}}')")
    return None


def rules_of(
    mapping: Mapping[str, str], columns: Mapping[str, Column], units: Mapping[str, Unit]
) -> dict[str, Rule | None]:
    """A rule for each of our columns that they have."""
    return {ours: rule(ours, columns[theirs], units.get(ours)) for ours, theirs in mapping.items()}


def row_fits(rules: Mapping[str, Rule], mapping: Mapping[str, str]) -> str:
    """The condition under which a whole row can be taken as it is."""
    tests = [f"f.{quoted(mapping[ours])} IS NOT NULL" for ours in (*REQUIRED, "tid") if ours in mapping]
    if "tid" not in mapping:
        tests.append("false")
    tests += [f"({one.fits}) IS NOT FALSE" for one in rules.values() if one.fits is not None]
    return " AND ".join(tests)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
