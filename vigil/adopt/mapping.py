"""Which of their columns is which of ours: what the setting says, else names that are known. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vigil.adopt.shape import REQUIRED, Column
from vigil.errors import SchemaMismatch, UsageError
from vigil.store import FILLS_COLUMNS

SETTING = "VIGIL_FILLS_COLUMNS"

_SYNONYMS = {
    "user_address": ("user", "address", "wallet", "wallet_address", "account", "trader"),
    "time": ("time_ms", "timestamp", "timestamp_ms", "ts", "ts_ms", "fill_time", "trade_time"),
    "coin": ("symbol", "asset"),
    "px": ("price",),
    "sz": ("size", "quantity", "qty"),
    "start_position": ("start_pos",),
    "dir": ("direction",),
    "hash": ("tx_hash", "transaction_hash"),
    "oid": ("order_id",),
    "tid": ("trade_id",),
    "cloid": ("client_order_id",),
}
_OURS_ALONE = {"seq": "integer", "extra": "jsonb"}
"""Names that mean anything elsewhere: taken for ours only with our type."""


def parse(setting: str) -> dict[str, str]:
    """The setting, `ours=theirs,...`, as {ours: theirs}. Raises: UsageError."""
    pairs: dict[str, str] = {}
    for word in filter(None, (part.strip() for part in setting.split(","))):
        ours, equals, theirs = (part.strip() for part in word.partition("="))
        if not equals or not theirs or ours not in FILLS_COLUMNS:
            known = "" if ours in FILLS_COLUMNS else f" and {ours!r} is none of ours"
            raise UsageError(
                f"{SETTING}: {word!r} is not of the form ours=theirs{known}.",
                hint=f"Ours are: {', '.join(FILLS_COLUMNS)}.",
            )
        if ours in pairs or theirs in pairs.values():
            raise UsageError(f"{SETTING}: {ours if ours in pairs else theirs} is named twice.")
        pairs[ours] = theirs
    return pairs


def resolve(columns: Sequence[Column], given: Mapping[str, str], *, under_way: bool = False) -> dict[str, str]:
    """{ours: theirs} for every column of theirs that is one of ours.

    `under_way`: an adoption may have renamed columns already, so a given name may be gone.
    Raises: UsageError for a name that is not in the table, SchemaMismatch where two could be the same
    column, or where too much is missing for the table to hold fills.
    """
    names = [one.name for one in columns]
    chosen: dict[str, str] = {}
    for ours, theirs in given.items():
        if theirs in names:
            chosen[ours] = theirs
        elif not (under_way and ours in names):
            raise UsageError(f"{SETTING}: the table `fills` has no column {theirs!r}.", hint=_listed(names))
    for ours in FILLS_COLUMNS:
        found = None if ours in chosen else _recognised(ours, columns, set(chosen.values()))
        if found is not None:
            chosen[ours] = found
    missing = [ours for ours in REQUIRED if ours not in chosen]
    if missing:
        raise SchemaMismatch(
            f"The table `fills` can't be adopted: it has no {', '.join(missing)}.",
            hint=f"If a column of another name holds that, say so: {SETTING}={missing[0]}=their_name. {_listed(names)}",
        )
    return {ours: chosen[ours] for ours in FILLS_COLUMNS if ours in chosen}


def _recognised(ours: str, columns: Sequence[Column], taken: set[str]) -> str | None:
    free = {one.name: one for one in columns if one.name not in taken}
    if ours in _OURS_ALONE:
        return ours if ours in free and free[ours].type == _OURS_ALONE[ours] else None
    if ours in free:
        return ours
    known = [_plain(ours), *map(_plain, _SYNONYMS.get(ours, ()))]
    close = [name for name in free if _plain(name) in known and name not in FILLS_COLUMNS]
    if len(close) > 1:
        raise SchemaMismatch(
            f"The table `fills` can't be adopted yet: {' and '.join(close)} could both be {ours}.",
            hint=f"Say which: {SETTING}={ours}={close[0]}",
        )
    return close[0] if close else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _listed(names: Sequence[str]) -> str:
    return f"Its columns: {', '.join(names)}."
