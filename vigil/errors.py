"""Every error a user can meet: one sentence, the next step, and an exit code.

The edges (`api`, `store`, `embedded`, `settings`) translate foreign exceptions into
these, once, by type or SQLSTATE and never by text; `cli` prints them. `docs/errors.md`
tells, for each, who retries and what happens to the user's row and to the run.
"""

from __future__ import annotations

from enum import StrEnum

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_SOME_USERS_FAILED = 3
EXIT_DIFFERENCES = 4
EXIT_TEMPORARY = 5
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class Fault(StrEnum):
    """What an exchange can do wrong, counted in `backfill_faults` and shown by `status`; see `docs/errors.md`.

    Requests, but for the last four, which count rows.
    """

    THROTTLED = "throttled"  # 429
    UNREACHABLE = "unreachable"  # no connection could be made
    ERROR_STATUS = "error_status"  # 5xx, 403 and other error pages
    REDIRECTED = "redirected"  # 3xx: never followed
    LATE = "late"  # not finished within the timeout, however it dripped
    BROKEN_OFF = "broken_off"  # reset, cut, or not as long as it said
    TOO_LARGE = "too_large"  # more bytes than any page has
    MALFORMED = "malformed"  # status 200, but no page: HTML, other JSON, JSON too deep, NaN
    REFUSED = "refused"  # 422 and its kind: this request will never be answered
    ANOTHER_USER = "another_user"  # a page that holds a fill which another user was answered with
    OUT_OF_ORDER = "out_of_order"  # a page whose rows do not ascend in time
    NOT_ADVANCING = "not_advancing"  # a full page with nothing at or behind the cursor
    OVERLAP_MISSING = "overlap_missing"  # none of the fills held came back: retention slid, or the answer was wrong
    OUT_OF_WINDOW_ROWS = "out_of_window_rows"  # dropped
    DUPLICATE_ROWS = "duplicate_rows"  # twice in one page, stored once
    ODD_ROWS = "odd_rows"  # numbers as text or text as numbers: read all the same
    REJECTED_ROWS = "rejected_rows"  # rows that could not be understood: in rejected_fills


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
    """The exchange did not give a usable answer; `fault` says in which way."""

    exit_code = EXIT_TEMPORARY
    fault = Fault.ERROR_STATUS

    def __init__(self, message: str, *, fault: Fault | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fault = fault or type(self).fault


class ExchangeUnreachable(ExchangeError):
    """No connection could be made: nobody answers at that address."""

    fault = Fault.UNREACHABLE


class ExchangeUnavailable(ExchangeError):
    """An answer came, but it was an error page, cut, late or too large; trying again may help."""


class ExchangeThrottled(ExchangeError):
    """429: the address has spent its weight. `retry_after` is seconds, when the server said so."""

    fault = Fault.THROTTLED

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExchangeRefused(ExchangeError):
    """The exchange understood and refused (422 and its kind): asking again can't help."""

    exit_code = EXIT_FAILURE
    fault = Fault.REFUSED

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class MalformedReply(ExchangeError):
    """Status 200, but the body is not what `userFillsByTime` answers."""

    fault = Fault.MALFORMED


class StoreError(VigilError):
    """The database refused, or holds something this version does not understand."""


class StoreUnavailable(StoreError):
    """The database can't be reached, or went away for longer than the run waits."""

    exit_code = EXIT_TEMPORARY


class StatementTooSlow(StoreUnavailable):
    """A statement took longer than it may: the database is stuck, or there is too much to look at."""


class SchemaMismatch(StoreError):
    """Tables or migrations in the database are not the ones this version knows."""

    exit_code = EXIT_USAGE


class ClaimLost(StoreError):
    """Another worker took over: this one slept through its lease and may commit nothing."""

    exit_code = EXIT_TEMPORARY


class EmbeddedPostgresError(VigilError):
    """The embedded Postgres could not be set up, started or stopped."""
