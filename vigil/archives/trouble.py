"""What can be wrong with an archive."""

from __future__ import annotations

from vigil.errors import EXIT_TEMPORARY, EXIT_USAGE, VigilError


class NotFills(VigilError):
    """The file holds something else, or a library to read it is missing: nothing of it was loaded."""

    exit_code = EXIT_USAGE


class Damaged(VigilError):
    """The file can't be read any further: cut, or corrupt. What came before is good."""


class ArchiveUnavailable(VigilError):
    """Where the file lies does not answer, or the file changed while it was read: trying again may help."""

    exit_code = EXIT_TEMPORARY
