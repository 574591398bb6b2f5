"""Packed bytes to text, by the magic number: lz4 frames, gzip, bzip2, xz, zstd; several in a row are one text."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lz4.frame

from vigil.archives.trouble import Damaged, NotFills

PIECE_BYTES = 1 << 20
"""Text is handed on in pieces of at most this size (or less, if told so), however well it was packed."""

_UNPACKING_FAILED = (RuntimeError, zlib.error, lzma.LZMAError, OSError, ValueError, EOFError)


class _Unpacker(Protocol):
    eof: bool
    needs_input: bool

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's unpacker with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        text = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(text) < max_length
        return text


def _unzstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        raise NotFills(
            "Files packed with zstd can't be read by this Python.",
            hint="Unpack it: `zstd -dc FILE | vigil-backfill load -`.",
        ) from None
    return zstd.ZstdDecompressor()


_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x04\x22\x4d\x18": lz4.frame.LZ4FrameDecompressor,
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _unzstd,
}
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LONGEST_MAGIC = 6


def unpacked(raw: Iterator[bytes], piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """The text of a file, in pieces of `piece_bytes` at most.

    Raises: Damaged when it is cut or corrupt, after all that could be read; NotFills.
    """
    head = b""
    for chunk in raw:
        head += chunk
        if len(head) >= _LONGEST_MAGIC:
            break
    if head.startswith(_LZ4_LEGACY):
        raise NotFills("It is packed in lz4's legacy format.", hint="Pack it anew without `-l`.")
    for magic, new in _UNPACKERS.items():
        if head.startswith(magic):
            yield from _unpack(_after(head, raw), new, piece_bytes)
            return
    for chunk in _after(head, raw):
        for at in range(0, len(chunk), piece_bytes):
            yield chunk[at : at + piece_bytes]


def _after(head: bytes, raw: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from raw


def _unpack(raw: Iterator[bytes], new: Callable[[], _Unpacker], piece_bytes: int) -> Iterator[bytes]:
    unpacker, begun, read = new(), False, 0
    for chunk in raw:
        data, read = chunk, read + len(chunk)
        while data or (begun and not unpacker.eof and not unpacker.needs_input):
            if unpacker.eof:
                if not data.strip(b"\x00"):  # padding
                    break
                unpacker = new()
            try:
                text = unpacker.decompress(data, piece_bytes)
            except _UNPACKING_FAILED as error:
                raise Damaged(f"it can't be unpacked beyond some byte before {read:,}: {error}") from error
            begun, data = True, (unpacker.unused_data or b"") if unpacker.eof else b""
            if text:
                yield text
    if begun and not unpacker.eof:
        raise Damaged(f"it is cut off after {read:,} bytes, in the middle of what is packed")
