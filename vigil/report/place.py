"""A small file that is there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from vigil.errors import UsageError, VigilError


def check(path: Path) -> None:
    """Refuse early where nothing can be written. Raises: UsageError."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory.", hint=f"Name a file, such as {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no directory.", hint="Make it, or name another.")


def write(path: Path, text: str) -> None:
    """Put `text` there, in place of what was there before. Raises: VigilError."""
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout: nothing whose name may go to another file
            path.write_text(text, "utf-8")
            return
        target = path.resolve()  # a link stays one, and what it points at is replaced
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.incomplete")
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise VigilError(
            f"The report can't be written to {path}: {error.strerror or error}.", hint="Choose another place with -o."
        ) from error
