"""Every error a user can meet: one sentence, the next step, and an exit code.

The edges (`api`, `store`, `embedded`, `settings`) translate foreign exceptions into
these, once, by type or SQLSTATE and never by text; `cli` prints them. `docs/errors.md`
tells, for each, who retries and what happens to the user's row and to the run.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_SOME_USERS_FAILED = 3
EXIT_TEMPORARY = 5
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class VigilError(Exception):
    """The root: `str(error)` is the sentence, `hint` the next step (may be empty)."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VigilError):
    """An argument, a setting or an input file is wrong; nothing was fetched."""

    exit_code = EXIT_USAGE


class ExchangeError(VigilError):
    """The exchange did not give a usable answer."""

    exit_code = EXIT_TEMPORARY


class ExchangeUnreachable(ExchangeError):
    """No connection could be made: nobody answers at that address."""


class ExchangeUnavailable(ExchangeError):
    """An answer came, but it was an error page, cut, late or too large; trying again may help."""


class ExchangeThrottled(ExchangeError):
    """429: the address has spent its weight. `retry_after` is seconds, when the server said so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExchangeRefused(ExchangeError):
    """The exchange understood and refused (422 and its kind): asking again can't help."""

    exit_code = EXIT_FAILURE


class MalformedReply(ExchangeError):
    """Status 200, but the body is not what `userFillsByTime` answers."""


class StoreError(VigilError):
    """The database refused, or holds something this version does not understand."""


class StoreUnavailable(StoreError):
    """The database can't be reached, or went away for longer than the run waits."""

    exit_code = EXIT_TEMPORARY


class SchemaMismatch(StoreError):
    """Tables or migrations in the database are not the ones this version knows."""

    exit_code = EXIT_USAGE


class ClaimLost(StoreError):
    """Another worker took over: this one slept through its lease and may commit nothing."""

    exit_code = EXIT_TEMPORARY


class EmbeddedPostgresError(VigilError):
    """The embedded Postgres could not be set up, started or stopped."""
