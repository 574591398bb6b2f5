"""The entry point: `vigil-backfill`, and `python -m vigil`.

A signal that comes while the rest is still being imported ends the process with its code, not with
a traceback; a SIGTERM outside of a run (which handles it itself) unwinds what is open.
"""

from __future__ import annotations

import signal
from types import FrameType


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    ctrl_c = signal.signal(signal.SIGINT, _leave)
    from vigil.cli import main as commands

    signal.signal(signal.SIGINT, ctrl_c)
    commands()


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
