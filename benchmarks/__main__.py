"""`make bench`: the benchmarks that the README's figures come from, one after the other."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (["limiter", "--minutes", "30"], ["budget"], ["ingest"], ["ways"], ["fleet", "--quick"])


def main() -> int:
    """Each in a process of its own, so that none measures what another has left in memory."""
    for name, *arguments in BENCHMARKS:
        print(f"\n== benchmarks.{name}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=False).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
