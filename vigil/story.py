"""One user's story: what was asked, what is held, what that proves, and what would change it.

Reads the database in one snapshot and asks nobody. `remedies` is pure: from what is known of a user to what
can be done about it, in the words of the commands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from vigil.cursor import PAGE_ROWS, GapKind
from vigil.db import Connection, sql
from vigil.verdict import OPENED_MS, RETENTION_ROWS, Cause, Verdict

ARCHIVES_FROM_MS = 1_748_131_200_000
"""2025-05-25, where the public archives of fills by user begin."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that would change a verdict: why, and the command, if there is one."""

    why: str
    command: str | None = None


@dataclass(frozen=True)
class Story:
    """All that is known of one user. Times in ms since epoch unless they are of our own doing."""

    user: dict[str, Any]
    """The row of `backfill_progress`."""
    coins: list[dict[str, Any]]
    """The fills held by coin, most first, with verdict and evidence where judged."""
    gaps: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    """Why rows could not be stored."""

    @property
    def rows(self) -> int:
        return sum(coin["rows"] for coin in self.coins)

    @property
    def twap_rows(self) -> int:
        return sum(coin["twap_rows"] for coin in self.coins)

    @property
    def pages(self) -> int:
        """About how many pages of the exchange that was: at least one for each list that was read."""
        if self.user["cursor_ms"] is None:
            return 0
        slices = 0 if self.user["slices_cursor_ms"] is None else max(1, math.ceil(self.twap_rows / PAGE_ROWS))
        return max(1, math.ceil((self.rows - self.twap_rows) / PAGE_ROWS)) + slices

    @property
    def slices_read(self) -> bool:
        cursor_ms, end_ms = self.user["slices_cursor_ms"], self.user["window_end_ms"]
        return cursor_ms is not None and cursor_ms >= end_ms

    @property
    def is_judged(self) -> bool:
        return self.user["verdict"] is not None and self.user["judged_at"] is not None

    @property
    def volume_share(self) -> Decimal | None:
        """The notional held as a share of the lifetime volume that the exchange tells: never a proof."""
        volume = self.user["lifetime_volume"]
        return self.user["notional"] / volume if volume and self.user["notional"] is not None else None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: amounts as text, our own times as ISO text."""
        return {
            **self.user,
            "rows": self.rows,
            "pages": self.pages,
            "twap_rows": self.twap_rows,
            "slices_read": self.slices_read,
            "volume_share": self.volume_share,
            "coins": self.coins,
            "gaps": self.gaps,
            "rejected": self.rejected,
            "remedies": [asdict(one) for one in remedies(self)],
        }


async def read_story(connection: Connection, user: str) -> Story | None:
    """The story of `user`; None if nobody has heard of it."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        known = await connection.fetchrow(sql("story_user"), user)
        if known is None:
            return None
        coins = [dict(row) for row in await connection.fetch(sql("story_coins"), user)]
        gaps = await connection.fetch(sql("audit_gaps"), user)
        rejected = await connection.fetch(sql("story_rejected"), user)
    for coin in coins:
        coin["evidence"] = None if coin["evidence"] is None else json.loads(coin["evidence"])
    return Story(dict(known), coins, [dict(row) for row in gaps], [dict(row) for row in rejected])


# What would change it


def remedies(story: Story) -> list[Remedy]:
    """What can still be done for a user, the cheapest first; where nothing can, it says so."""
    state, user = story.user["state"], story.user["user_address"]
    if state == "failed":
        return [Remedy("the exchange would not answer for it", f"vigil-backfill retry --user {user}")]
    if state == "claimed":
        return [Remedy("a worker is reading it just now: wait")]
    if state == "pending":
        return [Remedy("it is not read to the end", f"vigil-backfill run --user {user}")]
    if not story.is_judged:
        return [Remedy("it awaits its verdict; a run gives it", f"vigil-backfill run --user {user}")]
    if story.user["verdict"] == Verdict.COMPLETE:
        return [
            Remedy("nothing needs to; asked again, the table must agree", f"vigil-backfill verify --all --user {user}")
        ]
    found = list(_remedies_of_causes(story, set(story.user["verdict_causes"] or ())))
    return found or [Remedy("nothing that is known here")]


def _remedies_of_causes(story: Story, causes: set[str]) -> Iterator[Remedy]:
    facts, user, verdict = story.user, story.user["user_address"], story.user["verdict"]
    if not story.slices_read and Cause.TWAP in causes:
        why = "executions of TWAP orders are served elsewhere and were not asked for"
        yield Remedy(why, f"vigil-backfill run --twap always --user {user}")
    if verdict == Verdict.GAP:
        yield from _remedies_of_gaps(story)
    if Cause.WINDOW_START in causes and facts["window_start_ms"] > OPENED_MS:
        why = "the window begins late: what opened the position may lie before it"
        yield Remedy(why, f"vigil-backfill run --start 2023-01-01 --user {user}")
    if verdict in (Verdict.TRUNCATED, Verdict.GAP) or Cause.RETENTION in causes or Cause.LIFETIME_VOLUME in causes:
        why = "a source without the exchange's cap may have what is out of its reach"
        yield Remedy(why, f"vigil-backfill run --only {verdict} --source NAME --user {user}")
        if facts["window_end_ms"] > ARCHIVES_FROM_MS:
            yield Remedy("archives of fills by user begin on 2025-05-25: load those of the missing span")
    if Cause.RETENTION_UNKNOWN in causes:
        yield Remedy(
            "how many fills came after the window is not known: read on to this moment, or load archives, and it is",
            f"vigil-backfill run --end {_tomorrow()} --user {user}",
        )
    if Cause.NO_START_POSITION in causes:
        yield Remedy("rows of an archive do not tell their position: the exchange's own would, where it still has them")
    if Cause.ONLY_SPOT in causes:
        yield Remedy("nothing proves spot and outcomes: transfers, splits and merges leave no chain of fills")
    if verdict == Verdict.EMPTY:
        yield from _remedies_of_emptiness(story)


def _remedies_of_emptiness(story: Story) -> Iterator[Remedy]:
    if story.user["lifetime_volume"] is None:
        why = "whether the exchange counts a volume for it would tell whether it ever traded"
        yield Remedy(why, f"vigil-backfill run --volume-check --end {_tomorrow()} --user {story.user['user_address']}")
    yield Remedy("an agent wallet answers empty: the account that it signs for has the fills")


def _remedies_of_gaps(story: Story) -> Iterator[Remedy]:
    user = story.user["user_address"]
    if story.user["rejected_rows"]:
        yield Remedy("rows were served that could not be stored: look at rejected_fills; another version may read them")
    if any(gap["kind"] == GapKind.SATURATED for gap in story.gaps):
        yield Remedy("one millisecond has more rows than a page: the exchange can't be asked for the rest")
    yield Remedy(
        "the exchange may still have what is missing, if the table lost it or an answer was wrong",
        f"vigil-backfill repair --user {user}",
    )


# For people


def tell(story: Story) -> Iterator[str]:
    """The story as lines of text."""
    facts = story.user
    yield facts["user_address"]
    yield from _tell_reading(story)
    yield from _tell_rows(story)
    yield from _tell_flaws(story)
    yield from _tell_verdict(story)
    yield ""
    yield "What would change it:"
    for one in remedies(story):
        yield f"  - {one.why}"
        if one.command is not None:
            yield f"      {one.command}"


def _tell_reading(story: Story) -> Iterator[str]:
    facts = story.user
    if facts["window_end_ms"] is None:
        yield f"{facts['state']}: known, not yet read"
    else:
        yield f"{facts['state']}: window [{_moment(facts['window_start_ms'])}, {_moment(facts['window_end_ms'])})"
        begun = facts["cursor_ms"] > facts["window_start_ms"]
        so_far = f"read to {_moment(facts['cursor_ms'])}" if begun else "nothing of it read yet"
        yield f"{so_far}, since {_date(facts['started_at'])}" + (
            "" if facts["completed_at"] is None else f", to the end on {_date(facts['completed_at'])}"
        )
        yield f"sources: {', '.join(facts['sources']) or 'none to the end yet'} (last asked: {facts['source']})"
    if facts["until_ms"] is not None:
        yield f"{facts['source']} is being asked up to {_moment(facts['until_ms'])}"
    if facts["attempts"] or facts["last_error"]:
        yield f"{facts['attempts']} failed tries, the last: {facts['last_error'] or 'unknown'}"


def _tell_rows(story: Story) -> Iterator[str]:
    if not story.coins:
        yield "fills: none held"
    else:
        first, last = min(coin["first_ms"] for coin in story.coins), max(coin["last_ms"] for coin in story.coins)
        yield f"fills: {story.rows:,} held, about {_some(story.pages, 'page')}, {_moment(first)} to {_moment(last)}"
    archived = sum(coin["archive_rows"] for coin in story.coins)
    if archived:
        yield f"of these {archived:,} are known from archives"
    if story.user["window_end_ms"] is not None:
        if story.slices_read:
            yield f"TWAP slices: read, {story.twap_rows:,} rows"
        else:
            yield f"TWAP slices: {'wanted, not read to the end' if story.user['slices_wanted'] else 'not asked for'}"


def _tell_flaws(story: Story) -> Iterator[str]:
    for gap in story.gaps:
        yield f"gap: [{_moment(gap['from_ms'])}, {_moment(gap['to_ms'])}], {gap['kind']}: rows may be missing"
    for row in story.rejected:
        yield f"rejected: {_some(row['rows'], 'row')} not stored: {row['reason']}"


def _tell_verdict(story: Story) -> Iterator[str]:
    facts = story.user
    if not story.is_judged:
        yield "verdict: not judged yet"
        return
    yield f"verdict: {facts['verdict']}. {facts['verdict_why']}"
    if facts["verdict_causes"]:
        yield f"causes: {', '.join(facts['verdict_causes'])}"
    if facts["rows_after_window"]:
        cap = f"the exchange keeps about {RETENTION_ROWS:,}"
        yield f"{facts['rows_after_window']:,} rows are known after the window; {cap}"
    for coin in story.coins:
        what = coin["why"] or "not judged yet"
        yield f"  {coin['coin']:<12} {coin['verdict'] or '-':<10} {coin['rows']:>9,} rows  {what}"
        yield from _tell_breaks(coin["evidence"] or {})
    if story.volume_share is not None:
        share = f"{story.volume_share:.0%} of the lifetime volume of {facts['lifetime_volume']:,.0f} captured"
        yield f"volume: {share} (the exchange's count; its meaning is unproven)"


def _tell_breaks(evidence: dict[str, Any]) -> Iterator[str]:
    """Where the links of a coin break, if they do."""
    if not evidence.get("broken"):
        return
    first = f"{_moment(evidence['first_break_from_ms'])} and {_moment(evidence['first_break_to_ms'])}"
    last = f"{_moment(evidence['last_break_from_ms'])} and {_moment(evidence['last_break_to_ms'])}"
    broken = f"{evidence['broken']:,} of {_some(evidence['links'], 'link')} broken"
    yield f"    {broken}, {evidence['missing']} missing at least"
    yield f"    first between {first}, last between {last}"


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _moment(ms: int | None) -> str:
    if ms is None:
        return "-"
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{moment:%Y-%m-%d}" if ms % 86_400_000 == 0 else f"{moment:%Y-%m-%d %H:%M:%S}.{ms % 1000:03d}"


def _date(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _tomorrow() -> str:
    """A window that ends in the future ends at the moment of the run."""
    return f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
