"""What a user's address is: `0x` and 40 hex digits, kept in lower case."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from vigil.errors import UsageError

_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


def normalize_address(text: str) -> str:
    """The address in lower case. Raises: UsageError."""
    address = text.strip().lower()
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"{text.strip()[:80]!r} is not a user's address.", hint="Expected 0x and 40 hex digits.")
    return address


def read_addresses(lines: Iterable[str], *, source: str) -> Iterator[str]:
    """Addresses of a file, one a line; blank lines and what follows a `#` are skipped.

    Raises: UsageError naming `source` and the line.
    """
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix("\ufeff").split("#", 1)[0].strip()
        if not text:
            continue
        try:
            yield normalize_address(text)
        except UsageError as error:
            raise UsageError(f"{source}, line {number}: {error}", hint=error.hint) from None


def shard_of(address: str, total_workers: int) -> int:
    """The worker, 0 to total_workers - 1, that this user belongs to, the same everywhere and for ever.

    The first four bytes of SHA-256 over the 20 bytes of the address, a number below 2**32 whose range
    is divided evenly; `migrations/` has the same expression in SQL. (The plan's `abs(hashtext())` is
    neither promised to stay the same between Postgres versions nor defined for -2^31.)
    """
    digest = hashlib.sha256(bytes.fromhex(address[2:])).digest()
    return int.from_bytes(digest[:4], "big") * total_workers >> 32


def shard_range(index: int, total_workers: int) -> tuple[int, int]:
    """The numbers of `shard_of` that belong to worker `index`: first, and end (exclusive)."""
    return -(-(index << 32) // total_workers), -(-((index + 1) << 32) // total_workers)
