"""Where an export's files appear: complete or not at all.

Files are written under names that end in `.incomplete`, flushed to the disk, and renamed when all of them are whole. A
lock tells a leftover of an export that was killed (the kernel has freed it: cleared away) from one that is at work
(refused). Only what bears the names that this room gives is ever removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

from vigil.errors import UsageError
from vigil.export.output import Output, told

MANIFEST = "_export.json"
INCOMPLETE = ".incomplete"
_STAGING = ".vigil-export-"
_FILE = re.compile(r"fills\.(parquet|csv|csv\.gz)")
_PARTITION = re.compile(r"(month|user_address)=[^/]+")


class Place(ABC):
    """Where an export goes. `prepare`, then any number of `create`, then `publish`; `abandon` at any time."""

    @abstractmethod
    def prepare(self) -> None:
        """Take the place. Raises: UsageError when it holds something that may not be replaced."""

    @abstractmethod
    def create(self, name: str) -> Output:
        """A new file, to be known as `name` (relative) when all is published."""

    @abstractmethod
    def publish(self, manifest: dict[str, Any]) -> None:
        """Let the files appear, the manifest last."""

    @abstractmethod
    def abandon(self) -> None:
        """Remove what was not published; nothing when all was."""


class Stdout(Place):
    """Standard output: nothing to undo, and no manifest."""

    def prepare(self) -> None:
        sys.stdout.flush()

    def create(self, name: str) -> Output:
        return Output(sys.stdout.fileno(), "standard output")

    def publish(self, manifest: dict[str, Any]) -> None: ...

    def abandon(self) -> None: ...


class Directory(Place):
    """A directory of partitions and a manifest."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self._overwrite = overwrite
        self._staging: Path | None = None
        self._lock: int | None = None
        self._made: list[Path] = []
        self._names: list[str] = []

    def prepare(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is no directory.", hint="Name one, or a file that ends in .parquet or .csv.")
        with told(self.path):
            self._made = _make(self.path)
            leftovers = [entry for entry in self.path.iterdir() if entry.name.startswith(_STAGING)]
            _clear(leftovers)
            self._refuse_strangers()
            staging = self.path / f"{_STAGING}{secrets.token_hex(4)}"
            staging.mkdir()
            self._staging = staging
            self._lock = _locked(staging / "lock")

    def create(self, name: str) -> Output:
        assert self._staging is not None  # noqa: S101  prepared
        target = self._staging / f"{name}{INCOMPLETE}"
        with told(self.path):
            target.parent.mkdir(exist_ok=True)
        self._names.append(name)
        return Output(target, name)

    def publish(self, manifest: dict[str, Any]) -> None:
        assert self._staging is not None  # noqa: S101
        with told(self.path):
            draft = self._staging / f"{MANIFEST}{INCOMPLETE}"
            _write(draft, manifest)
            self._remove_earlier()
            for name in self._names:
                (self.path / name).parent.mkdir(exist_ok=True)
                os.rename(self._staging / f"{name}{INCOMPLETE}", self.path / name)
            _sync(self.path)
            os.rename(draft, self.path / MANIFEST)
            _sync(self.path)
        self._made = []
        self.abandon()

    def abandon(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        for directory in reversed(self._made):
            with suppress(OSError):  # somebody put something there meanwhile
                directory.rmdir()
        self._made = []

    def _refuse_strangers(self) -> None:
        present = sorted(self.path.iterdir())
        if not present:
            return
        if not self._overwrite:
            raise UsageError(f"{self.path} is not empty.", hint="--overwrite replaces an earlier export, nothing else.")
        for entry in present:
            if entry.name == MANIFEST or _FILE.fullmatch(entry.name):
                continue
            if _PARTITION.fullmatch(entry.name) and all(_FILE.fullmatch(file.name) for file in entry.iterdir()):
                continue
            raise UsageError(
                f"{entry} is no part of an earlier export: nothing was replaced.", hint="Choose another directory."
            )

    def _remove_earlier(self) -> None:
        """The manifest first: from here on until the end nothing here claims to be whole."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        for entry in list(self.path.iterdir()):
            if _FILE.fullmatch(entry.name):
                entry.unlink()
            elif _PARTITION.fullmatch(entry.name):
                for file in list(entry.iterdir()):
                    if _FILE.fullmatch(file.name):
                        file.unlink()
                with suppress(OSError):  # something else came to lie there since we looked
                    entry.rmdir()


class SingleFile(Place):
    """One file, its manifest beside it as `NAME.export.json`."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self._overwrite = overwrite
        self._draft = path.with_name(f".{path.name}{_STAGING}{secrets.token_hex(4)}{INCOMPLETE}")
        self._manifest = path.with_name(f"{path.name}.export.json")
        self._lock: int | None = None

    def prepare(self) -> None:
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a directory.", hint="--partition month, user or none writes into one.")
        if not self._overwrite and (self.path.exists() or self._manifest.exists()):
            there = self.path if self.path.exists() else self._manifest
            raise UsageError(f"{there} is there already.", hint="--overwrite replaces it.")
        with told(self.path):
            if not self.path.parent.is_dir():
                raise UsageError(f"{self.path.parent} is no directory.", hint="Make it, or name another.")
            _clear(list(self.path.parent.glob(f".{_escaped(self.path.name)}{_STAGING}*{INCOMPLETE}")))
            self._lock = _locked(self._draft)

    def create(self, name: str) -> Output:
        return Output(self._draft, self.path.name)  # the file that is locked

    def publish(self, manifest: dict[str, Any]) -> None:
        draft = self._draft.with_name(f"{self._draft.name}.json")
        with told(self.path):
            try:
                _write(draft, manifest)
                self._manifest.unlink(missing_ok=True)
                os.replace(self._draft, self.path)
                _sync(self.path.parent)
                os.replace(draft, self._manifest)
                _sync(self.path.parent)
            finally:
                draft.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        if self._lock is not None:
            self._draft.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def _make(directory: Path) -> list[Path]:
    """Make `directory` and what lacks above it; answers what was made, outermost first."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _locked(path: Path) -> int:
    """A descriptor of `path` that holds its lock, until it is closed or this process is gone."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _clear(leftovers: list[Path]) -> None:
    """Remove what exports that were killed left behind. Raises: UsageError when one of them is at work."""
    for leftover in leftovers:
        lock = leftover / "lock" if leftover.is_dir() else leftover
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # killed before it had locked, so it is empty; or gone already
            with suppress(OSError):
                leftover.rmdir()
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        except BlockingIOError:
            raise UsageError(
                f"Another export is writing there: {leftover}.", hint="Wait for it, or choose another place."
            ) from None
        finally:
            os.close(fd)


def _write(path: Path, manifest: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
