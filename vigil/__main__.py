"""The entry point: `vigil-backfill`, and `python -m vigil`.

A signal that comes while the rest is still being imported ends the process with its code, not with
a traceback; a SIGTERM outside of a run (which handles it itself) unwinds what is open. SIGUSR1 asks a run
for its state, and kills nobody who has none to tell.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGUSR1, _nothing_to_tell)
    ctrl_c = signal.signal(signal.SIGINT, _leave)
    from vigil.cli import main as commands

    signal.signal(signal.SIGINT, ctrl_c)
    try:
        commands()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Python's own end would make it deadly again


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _nothing_to_tell(signum: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"nothing is being read just now\n")  # not `print`: it may be in the middle of another


if __name__ == "__main__":
    main()
