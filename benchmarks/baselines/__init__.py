"""Other ways to read everybody's fills, to measure vigil's against: each a function with the same arguments.

Each reads `users` of an exchange and hands every page it was given to `keep(user, rows)`. All are as
their authors would have them, but for the length of the exchange's minute, so that a rehearsal is short:
`Place.seconds` turns seconds of the real exchange into the rehearsal's.

- `plan`: the original plan's client. 40 requests a minute, backward; a 429 ends the script, which is started again.
- `last_plus_one`: forward from the last row's time + 1; its limiter is told what an answer cost when it is there.
- `official_sdk`: the exchange's own Python SDK. It has no limiter: a loop with back-off, paging as above.
- `ccxt_client`: ccxt and its limiter, which knows one price for all answers: the same loop around it.
- `ours`: vigil's client, pager and walk, eight users at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

PAGE_ROWS = 2_000
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """An exchange to ask: `url` ends in /info, its minute lasts `period_seconds`; both bounds inclusive, ms."""

    url: str
    period_seconds: float
    start_ms: int
    end_ms: int

    def seconds(self, real: float) -> float:
        """What lasts so long at the real exchange, here."""
        return real * self.period_seconds / MINUTE


Row = Mapping[str, Any]
Keep = Callable[[str, Iterable[Any]], None]
Users = Sequence[str]


class Face(NamedTuple):
    """What tells a row from every other of its user, in the exchange's own text."""

    time: int
    coin: str
    side: str
    oid: int
    tid: int | None
    px: str
    sz: str
    start_position: str


def face(row: Any) -> Face:
    """Of a row as served, or of a `Fill`, which reads by the same names."""
    names = row.keys()
    tid = row["tid"] if "tid" in names else None
    if tid is not None and tid < 0:  # vigil's own, for rows that came without
        tid = None
    return Face(row["time"], row["coin"], row["side"], row["oid"], tid, row["px"], row["sz"], row["startPosition"])
