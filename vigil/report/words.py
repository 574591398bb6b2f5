"""Numbers, spans and caveats as people read them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

from vigil.errors import Fault
from vigil.report.data import Reading, Report, Standing
from vigil.verdict import Verdict

_GREAT = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))

VERDICTS = {
    Verdict.COMPLETE: "every chain of positions begins at 0 and has no broken link",
    Verdict.TRUNCATED: "older fills existed and are out of reach",
    Verdict.GAP: "fills are missing between others, or known to be missing",
    Verdict.EMPTY: "no fill within reach",
    Verdict.UNVERIFIED: "nothing is known to be missing, and nothing proves that nothing is",
    "not_judged": "read to the end, verdict still to come",
    "not_read": "not read to the end: waiting, being read, or failed",
}

STANDINGS = {
    Standing.PROVEN: "proven complete",
    Standing.NOTHING_MISSING: "nothing known to be missing",
    Standing.OUT_OF_REACH: "out of reach",
    Standing.HOLES: "with holes",
    Standing.NOT_READ: "not read",
}

WITHOUT_FILLS = {
    Reading.ALL: "no fills",
    Reading.SOME: "none so far",
    Reading.NONE: "not read yet",
    Reading.OUTSIDE: "not asked for",
}
"""What it means that a month has no fills."""

FAULTS = {
    Fault.THROTTLED: "429: too many requests for the exchange",
    Fault.UNREACHABLE: "no connection could be made",
    Fault.ERROR_STATUS: "an error page (5xx, 403 and others)",
    Fault.REDIRECTED: "sent elsewhere (3xx), not followed",
    Fault.LATE: "not finished within the timeout",
    Fault.BROKEN_OFF: "reset, cut, or not as long as announced",
    Fault.TOO_LARGE: "an answer larger than any page",
    Fault.MALFORMED: "an answer that is no page",
    Fault.REFUSED: "refused for good (422 and its kind)",
    Fault.ANOTHER_USER: "a page with another user's fill",
    Fault.OUT_OF_ORDER: "a page whose rows do not ascend in time",
    Fault.NOT_ADVANCING: "a full page with nothing new",
    Fault.OVERLAP_MISSING: "fills that were held did not come back",
    Fault.OUT_OF_WINDOW_ROWS: "rows outside of what was asked for, dropped",
    Fault.DUPLICATE_ROWS: "rows twice in one page, stored once",
    Fault.ODD_ROWS: "numbers as text or text as numbers, read all the same",
    Fault.REJECTED_ROWS: "rows that could not be understood",
}


def count(number: float) -> str:
    """With a comma at each thousand; a part of one is told to one digit."""
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:,.1f}"


def amount(number: Decimal) -> str:
    """Whole, all digits; what is no number says so."""
    return f"{number:,.0f}" if number.is_finite() else str(number)


def short(number: Decimal | float) -> str:
    """Three digits and a word: 12.3 million."""
    value = Decimal(number)
    if not value.is_finite():
        return str(value)
    for size, word in _GREAT:
        if abs(value) >= size:
            return f"{_three(value / size)} {word}"
    return amount(value) if value >= 10 or value == int(value) else f"{value.normalize():.2g}"


def brief(number: float) -> str:
    """For the ticks of an axis: as short as can be."""
    for size, sign in ((10**12, "tn"), (10**9, "bn"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g} {sign}"
    return f"{number:.4g}"


def percent(number: float) -> str:
    return f"{100 * number:.4g} %"


def clean(text: object) -> str:
    """Somebody else's text: control characters are shown, not obeyed."""
    return "".join(chr(0x2400 + code) if (code := ord(one)) < 32 else "␡" if code == 127 else one for one in str(text))


def marked(text: str) -> list[tuple[bool, str]]:
    """The parts of a sentence of ours, and which of them are code: those between backticks."""
    return [(place % 2 == 1, part) for place, part in enumerate(text.split("`"))]


def headline(report: Report) -> str:
    """The whole in a sentence or two."""
    users, by = report.users, {one.verdict: one.users for one in report.verdicts}
    if not users.total:
        return "Nothing has been asked for yet: no users are known."
    read = (
        f"All {plural(users.total, 'user')} read to the end"
        if users.completed == users.total
        else f"{users.completed:,} of {plural(users.total, 'user')} read to the end"
    )
    proven = by[Verdict.COMPLETE]
    return (
        f"{read}, {'none' if not proven else f'{proven:,}'} of them proven complete. "
        f"{plural(report.rows.total, 'fill')} in the database."
    )


def _three(value: Decimal) -> str:
    whole = len(str(abs(int(value))))
    return f"{value:,.{max(0, 3 - whole)}f}"


def share(part: float, whole: float) -> str:
    """Percent. 0 % and 100 % are said of nothing and of everything alone."""
    if not whole:
        return "\N{EN DASH}"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1\N{NO-BREAK SPACE}%"
    if 99 < percent < 100:
        return ">99\N{NO-BREAK SPACE}%"
    return f"{percent:.0f}\N{NO-BREAK SPACE}%"


def cell(part: int, whole: int) -> str:
    """`share` for where there is little room, without the sign."""
    return share(part, whole).removesuffix("\N{NO-BREAK SPACE}%")


def instant(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def day(moment: datetime) -> str:
    """A day; the time of it, too, where it is not midnight."""
    utc = moment.astimezone(UTC)
    midnight = utc.replace(hour=0, minute=0, second=0, microsecond=0)
    return f"{utc:%Y-%m-%d}" if utc == midnight else f"{utc:%Y-%m-%d %H:%M} UTC"


def lasted(seconds: float) -> str:
    """The two greatest units of a span."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest, parts = round(seconds), list[str]()
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        whole, rest = divmod(rest, size)
        if whole or parts:
            parts.append(f"{whole} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def plural(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def caveats(report: Report) -> list[str]:
    """What to know before these numbers are used, most important first."""
    return [*_of_users(report), *_of_rows(report), *_of_runs(report)]


def _of_users(report: Report) -> Iterator[str]:
    users, by = report.users, {one.verdict: one.users for one in report.verdicts}
    if not users.total:
        yield "No users are known: nothing has been asked for yet."
        return
    if unread := by["not_read"]:
        doing = [f"{getattr(users, state):,} {word}" for state, word in _DOING if getattr(users, state)]
        yield (
            f"{_users(unread)} not read to the end ({', '.join(doing)}): "
            "months not read are told as such, and the numbers will grow."
        )
    if by["not_judged"]:
        yield f"{_users(by['not_judged'])} read, but not judged yet."
    if by[Verdict.TRUNCATED]:
        yield (
            f"{_users(by[Verdict.TRUNCATED])} truncated: older fills existed that the exchange no longer has. "
            "Sums over their early months are too small, and nobody knows by how much."
        )
    if by[Verdict.GAP]:
        yield f"Fills of {plural(by[Verdict.GAP], 'user')} are missing between others: see `vigil-backfill repair`."
    if by[Verdict.UNVERIFIED]:
        yield f"Of {plural(by[Verdict.UNVERIFIED], 'user')} it can't be told whether anything is missing."
    if users.declared:
        yield f"{_users(users.declared)} declared complete by hand, without a window: not read, in every month."


_DOING = (("pending", "waiting"), ("claimed", "being read"), ("failed", "failed"))


def _users(number: int) -> str:
    return f"{plural(number, 'user')} {'is' if number == 1 else 'are'}"


def _of_rows(report: Report) -> Iterator[str]:
    if gaps := sum(one.gaps for one in report.gaps):
        yield f"{plural(gaps, 'span')} of time in which rows of a user may be missing, noted while it was read."
    if rejected := report.rejected.rows:
        yield f"{plural(rejected, 'row')} served, but not understood: raw in `rejected_fills`, in no number here."
    if report.rows.outside_axis:
        yield (
            f"{plural(report.rows.outside_axis, 'fill')} of months more than ten years ago or still to come: "
            "in the totals, in no month."
        )
    if report.rows.days_behind:
        yield (
            f"`fills_daily` is not up to date for {plural(report.rows.days_behind, 'day')}: these were counted "
            "from the rows, so the numbers here are right. `vigil-backfill maintain` brings it up to date."
        )
    if report.rows.total:
        yield (
            "Volume is price times size, in what each coin is quoted in (mostly dollars). A trade counts once for each "
            "side whose user is here."
        )


def _of_runs(report: Report) -> Iterator[str]:
    if report.runs is None:
        yield "No run has told how it went (earlier versions did not): speed and use of the budget are not known."
