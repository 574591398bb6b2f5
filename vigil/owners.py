"""Whose fill is whose: an answer that was meant for somebody else is found out. Pure.

A page does not name its user. But a fill belongs to one user only (no order id is shared by two
users in the recorded answers), so a page that begins or ends with a fill which another user was
answered with is not this user's, or that one was not the other's. What is remembered is bounded,
and of this process: a wrong answer for a user who is read for the first time, with fills that
nobody else was answered with, can't be told from a right one.
"""

from __future__ import annotations

from collections import OrderedDict

from vigil.fills import Fill, Page

REMEMBERED_FILLS = 50_000
"""Two a page: some 10 MB, and hours of one address's pages."""


class Owners:
    """Remembers which user the ends of each page were served for."""

    def __init__(self, remembered: int = REMEMBERED_FILLS) -> None:
        self._remembered = remembered
        self._owner: OrderedDict[int, str] = OrderedDict()

    def other_owner(self, user: str, page: Page) -> str | None:
        """Another user who was answered with this page's first or last fill, if there is one; else remember them."""
        ends = [_identity(fill) for fill in (page[0], page[-1]) if fill.key.tid > 0] if page else []
        for end in ends:
            if self._owner.get(end, user) != user:
                return self._owner[end]
        for end in ends:
            self._owner[end] = user
            self._owner.move_to_end(end)
        while len(self._owner) > self._remembered:
            self._owner.popitem(last=False)
        return None


def _identity(fill: Fill) -> int:
    """Of a fill as a whole: two users' fills never agree in the order id, the trade and all its numbers."""
    return hash((fill.key, fill.px, fill.sz, fill.start_position, fill.closed_pnl, fill.fee))
