"""Several commands in one process of their own: starting Python for each would take longer than they do.

Reads a JSON list of command lines (without the program's name) from stdin, prints a list of what became of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from tests.kit.command import Outcome
from vigil.cli import main


async def several(commands: Sequence[Sequence[str]], *, env: dict[str, str], cwd: Path, stdin: Path) -> list[Outcome]:
    """Run them one after the other in `cwd`, each with the file `stdin` as its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kit.several", str(stdin), env=env, cwd=cwd, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(json.dumps([list(words) for words in commands]).encode())
    return [Outcome(**one) for one in json.loads(out)]


@contextmanager
def _put(stream: IO[str], file: IO[bytes]) -> Iterator[None]:
    """The stream's own descriptor leads to the file: some commands write past Python's object."""
    kept = os.dup(stream.fileno())
    os.dup2(file.fileno(), stream.fileno())
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, stream.fileno())
        os.close(kept)


def _run(words: list[str], stdin: str) -> Outcome:
    sys.argv = ["vigil-backfill", *words]
    code = 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, Path(stdin).open("rb") as given:
        os.dup2(given.fileno(), 0)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it has read none of the last one
        with _put(sys.stdout, out), _put(sys.stderr, err):
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        out.seek(0)
        err.seek(0)
        return Outcome(code, out.read().decode(), err.read().decode())


if __name__ == "__main__":
    (_, given) = sys.argv
    json.dump([asdict(_run(words, given)) for words in json.load(sys.stdin)], sys.stdout)
