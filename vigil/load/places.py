"""Where files come from: a file, a directory, a glob, standard input, a bucket."""

from __future__ import annotations

import glob
import os
import stat
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
    if os.path.isdir(place):
        files = sorted(_below(place))
        if not files:
            raise UsageError(f"There are no files in {path}.")
        return files
    if os.path.lexists(place):
        return [place]
    matches = sorted(glob.glob(str(place), recursive=True)) if glob.has_magic(path) else []
    if not matches:
        raise UsageError(f"There is no file {path}.")
    return [file for match in matches for file in ([Path(match)] if not Path(match).is_dir() else _local(match))]


def _below(place: Path) -> Iterator[Path]:
    """All files in a directory, by way of links too. Raises: UsageError for one that can't be looked into."""
    seen: set[tuple[int, int]] = set()
    for path, directories, names in os.walk(place, onerror=_not_readable, followlinks=True):
        state = os.stat(path)
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back
            directories.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        directories[:] = [name for name in directories if not _is_hidden(name)]
        yield from (file for name in names if not _is_hidden(name) and (file := Path(path, name)).is_file())


def _not_readable(error: OSError) -> None:
    raise UsageError(
        f"{error.filename} can't be read: {error.strerror}.", hint="Nothing was loaded, since files may lie there."
    )


def _is_hidden(name: str) -> bool:
    """Such names are nobody's data: an export's manifest, a file that is still being written."""
    return name.startswith((".", "_")) or name.endswith(".export.json")


def _item(path: Path) -> Item:
    try:
        state = path.stat()
        name = str(path.resolve())
        name.encode()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The name {str(path)!r} is no UTF-8: what is in of the file could not be remembered.",
            hint="Rename it, or send it to standard input: `vigil-backfill load - < FILE`.",
        ) from error
    if not stat.S_ISREG(state.st_mode):
        raise UsageError(
            f"{path} is no file.", hint="What a command prints is read with `COMMAND | vigil-backfill load -`."
        )
    return Item(name, state.st_size, str(state.st_mtime_ns))


def opened(item: Item, stdin: int = 0) -> Iterator[bytes]:
    """The file's bytes from its beginning. Raises: ArchiveUnavailable, NotFills."""
    if s3.is_url(item.name):
        yield from s3.read(item.name, item.size_bytes, item.version)
        return
    try:
        if item.is_stdin:
            while chunk := os.read(stdin, CHUNK_BYTES):
                yield chunk
            return
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
