"""Where files come from: a file, a directory, a glob, standard input, a bucket."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from vigil.archives import ArchiveUnavailable, NotFills
from vigil.errors import UsageError
from vigil.load import s3

CHUNK_BYTES = 1 << 20
STDIN = "-"


class Item(msgspec.Struct, frozen=True):
    """A file as it was found: path or URL, bytes, and what changes when it does (time of its change, ETag)."""

    name: str
    size_bytes: int
    version: str

    @property
    def is_stdin(self) -> bool:
        return self.name == STDIN


def find(paths: Sequence[str]) -> list[Item]:
    """The files at `paths`, each once, in order. Raises: UsageError, ArchiveUnavailable."""
    found: dict[str, Item] = {}
    for path in paths:
        if path == STDIN:
            found[STDIN] = Item(STDIN, 0, "")
        elif s3.is_url(path):
            found |= {name: Item(name, size, etag) for name, size, etag in s3.find(path)}
        else:
            found |= {item.name: item for item in map(_item, _local(path))}
    return list(found.values())


def _local(path: str) -> Iterable[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(one for one in place.rglob("*") if one.is_file() and not _is_hidden(one.relative_to(place)))
        if not files:
            raise UsageError(f"There are no files in {path}.")
        return files
    if place.exists():
        return [place]
    matches = sorted(glob.glob(str(place), recursive=True)) if glob.has_magic(path) else []
    if not matches:
        raise UsageError(f"There is no file {path}.")
    return [file for match in matches for file in ([Path(match)] if not Path(match).is_dir() else _local(match))]


def _is_hidden(path: Path) -> bool:
    """Names that begin so are nobody's data: a manifest, a file that is still being written."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _item(path: Path) -> Item:
    try:
        state = path.stat()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error
    return Item(str(path.resolve()), state.st_size, str(state.st_mtime_ns))


def opened(item: Item, stdin: int = 0) -> Iterator[bytes]:
    """The file's bytes from its beginning. Raises: ArchiveUnavailable, NotFills."""
    if item.is_stdin:
        while chunk := os.read(stdin, CHUNK_BYTES):
            yield chunk
    elif s3.is_url(item.name):
        yield from s3.read(item.name, item.size_bytes, item.version)
    else:
        try:
            with open(item.name, "rb", buffering=0) as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise ArchiveUnavailable(f"it can't be read: {error.strerror}") from error


def whole(item: Item) -> BinaryIO:
    """The file to seek in; one of a bucket is brought here first. Raises: ArchiveUnavailable, NotFills."""
    if item.is_stdin:
        raise NotFills("Parquet can't be read from standard input.", hint="Write it to a file first.")
    if s3.is_url(item.name):
        return s3.whole(item.name, item.size_bytes, item.version)
    try:
        return open(item.name, "rb")
    except OSError as error:
        raise ArchiveUnavailable(f"it can't be read: {error.strerror}") from error
