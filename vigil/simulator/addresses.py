"""User addresses that carry their own number: 10 million users, and none held in memory.

The low 48 bits of an address are the user's index, scrambled by a small keyed Feistel network
(a bijection, hence invertible); the upper 112 bits are a keyed hash of those, so an address
nobody made here is recognised as unknown. Must not know what users do.
"""

from __future__ import annotations

import hashlib
import re

_HALF_BITS = 24
_HALF_MASK = (1 << _HALF_BITS) - 1
_TAG_BYTES = 14
_WELL_FORMED = re.compile(r"0x[0-9a-f]{40}")


def is_address(text: object) -> bool:
    """Whether `text` is a lower-case `0x` + 40 hex digits."""
    return isinstance(text, str) and _WELL_FORMED.fullmatch(text) is not None


class AddressBook:
    """The bijection between the indices `0 <= i < size` and addresses, for one seed."""

    def __init__(self, seed: int, size: int) -> None:
        self.size = size
        self._key = hashlib.blake2b(f"addresses:{seed}".encode(), digest_size=32).digest()
        # Odd multipliers: the round function mixes well enough for scattered-looking addresses.
        self._round_keys = [int.from_bytes(self._key[n : n + 4]) | 1 for n in (0, 4, 8, 12)]

    def address(self, index: int) -> str:
        """The address of user `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"user {index} of {self.size}")
        low = self._scramble(index)
        return f"0x{self._tag(low)}{low:012x}"

    def index(self, address: str) -> int | None:
        """The user behind a lower-case address, or None when it is not one of ours."""
        if not is_address(address):
            return None
        low = int(address[-12:], 16)
        if self._tag(low) != address[2:-12]:
            return None
        index = self._unscramble(low)
        return index if index < self.size else None

    def _tag(self, low: int) -> str:
        return hashlib.blake2b(low.to_bytes(6), key=self._key, digest_size=_TAG_BYTES).hexdigest()

    def _scramble(self, index: int) -> int:
        left, right = index >> _HALF_BITS, index & _HALF_MASK
        for key in self._round_keys:
            left, right = right, left ^ self._round(right, key)
        return left << _HALF_BITS | right

    def _unscramble(self, low: int) -> int:
        left, right = low >> _HALF_BITS, low & _HALF_MASK
        for key in reversed(self._round_keys):
            left, right = right ^ self._round(left, key), left
        return left << _HALF_BITS | right

    @staticmethod
    def _round(half: int, key: int) -> int:
        return ((half + 1) * key >> 13) & _HALF_MASK
