"""Who is to blame when a user gets no usable answer: the user, or the exchange? Pure.

A user that fails between others that are answered fails alone. Many in a row are an outage: their
users are set free again, without a failed try. So a failure is held back until the next answer
tells which of the two it was; and before an outage is believed, somebody who was answered before
is asked for again. What the exchange refuses (422) it has understood: that user is to blame, once
the exchange has shown that it answers anybody.
"""

from __future__ import annotations

from vigil.errors import ExchangeError, ExchangeRefused, ExchangeUnavailable, UsageError
from vigil.store import Chunk

SILENT_USERS = 20
"""So many users failing in a row, none answered in between: it is the exchange, not they. At least twice the pagers."""

MISDIRECTED = frozenset({401, 404, 405, 410, 414, 415})
"""Statuses that speak of the URL rather than of a user."""


class Blame:
    """Hears how each user's turn ended and says what to commit of those that failed.

    `least` users in a row are an outage; `patience_seconds` is how long one may last, once there
    has been an answer at all.
    """

    def __init__(self, least: int, patience_seconds: float) -> None:
        self._least = least
        self._patience_seconds = patience_seconds
        self._held: list[tuple[str, ExchangeError]] = []
        self._streak = 0
        self._since = 0.0
        self._answered = False

    def hear(self, user: str, error: ExchangeError | None, now: float) -> list[Chunk]:
        """A user's turn ended, with `error` or well, at `now` seconds; returns what to commit.

        Raises: ExchangeUnavailable when the exchange answers nobody, UsageError when that is not the exchange.
        """
        if error is None:
            self._answered, self._streak = True, 0
            return self._judged()
        self._since = self._since if self._streak else now
        self._streak += 1
        if self._streak >= self._least and (not self._answered or now - self._since >= self._patience_seconds):
            raise self._nobody(user, error)
        if self._answered and _is_own_fault(error):
            return [Chunk(user, None, error=str(error))]
        self._held.append((user, error))
        return []

    @property
    def at_the_brink(self) -> bool:
        """Whether one more failure makes it an outage: the time to ask for somebody who was answered before."""
        return (self._streak + 1) % self._least == 0

    @property
    def suspects_outage(self) -> bool:
        """Whether those held back are too many to be to blame, or nobody was answered and all speaks of a wrong URL."""
        return len(self._held) >= self._least or (bool(self._held) and self._speaks_of_the_url())

    def vouch(self) -> list[Chunk]:
        """The exchange answers for somebody else: returns those held back, who are to blame then."""
        self._answered, self._streak = True, 0
        chunks = [Chunk(user, None, error=str(error)) for user, error in self._held]
        self._held.clear()
        return chunks

    def rest(self) -> list[Chunk]:
        """Those still held back, when nobody is left to ask.

        Raises: ExchangeUnavailable when they are an outage: they stay unread, so the run is not done.
        """
        if self.suspects_outage:
            raise self._nobody(*self._held[-1])
        return self._judged()

    def _judged(self) -> list[Chunk]:
        outage = self.suspects_outage
        chunks = [
            Chunk(user, None, released=True)
            if outage and not _is_own_fault(error)
            else Chunk(user, None, error=str(error))
            for user, error in self._held
        ]
        self._held.clear()
        return chunks

    def _nobody(self, user: str, error: ExchangeError) -> ExchangeUnavailable | UsageError:
        text = f"The exchange gave no usable answer for {self._streak} users in a row, lastly {user}: {error}"
        if self._speaks_of_the_url(error):
            return UsageError(text, hint="Check the URL: VIGIL_API_URL, or the source's api_url and headers.")
        return ExchangeUnavailable(text, hint="Nothing is lost: run the same command again later.")

    def _speaks_of_the_url(self, *errors: ExchangeError) -> bool:
        held = (error for _, error in self._held)
        misdirected = (isinstance(one, ExchangeRefused) and one.status in MISDIRECTED for one in (*held, *errors))
        return not self._answered and all(misdirected)


def _is_own_fault(error: ExchangeError) -> bool:
    """Whether the exchange has understood the request and refused this very user."""
    return isinstance(error, ExchangeRefused) and error.status not in MISDIRECTED
