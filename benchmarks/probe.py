"""`vigil-backfill` that tells what it holds, without being changed: a JSON line on every SIGURG.

    python -m benchmarks.probe FILE run --concurrency 8

That signal, because a process that has not yet begun to listen, or does so no more, is not hurt by it.
Used by `benchmarks.soak`, and by hand.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

from vigil import cli


def main() -> None:
    told = Path(sys.argv.pop(1))

    def tell(*_: object) -> None:
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:  # between two event loops
            tasks = 0
        with told.open("a") as file:
            file.write(json.dumps({"tasks": tasks, "objects": len(gc.get_objects())}) + "\n")

    signal.signal(signal.SIGURG, tell)
    cli.main()


if __name__ == "__main__":
    main()
