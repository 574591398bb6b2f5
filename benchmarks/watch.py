"""What a process holds, seen from outside (/proc) and told by itself (`benchmarks/probe.py`), over its life."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression


@dataclass(frozen=True)
class Sample:
    """What the process held at one moment."""

    seconds: float
    users_done: int
    rss_kb: int
    anonymous_kb: int
    files: int
    sockets: int
    threads: int
    tasks: int
    objects: int
    sessions: int
    database_mb: int


class Watch:
    """Looks at process `pid`, which runs under `benchmarks.probe` and writes to `told`."""

    def __init__(self, pid: int, told: Path) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._told = told
        self._began = time.monotonic()

    def look(self, *, users_done: int, sessions: int, database_mb: int) -> None:
        """Take a sample; none while the process is still starting, or just ending."""
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        process = Path(f"/proc/{self._pid}")
        try:
            os.kill(self._pid, signal.SIGURG)  # answered by the next look
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            files = [_target(path) for path in (process / "fd").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            return
        if not lines or "VmRSS" not in status:  # the latter of a process that has ended, but was not waited for
            return
        sample = Sample(
            seconds=time.monotonic() - self._began,
            users_done=users_done,
            rss_kb=int(status["VmRSS"].split()[0]),
            anonymous_kb=int(status["RssAnon"].split()[0]),
            files=len(files),
            sockets=sum(name.startswith("socket:") for name in files),
            threads=int(status["Threads"]),
            sessions=sessions,
            database_mb=database_mb,
            **json.loads(lines[-1]),
        )
        self.samples.append(sample)


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed since it was listed
        return ""


def print_samples(samples: Sequence[Sample]) -> None:
    """The table at each eighth of the users done, and what the second half did."""
    last = samples[-1].users_done
    eighths = [next(one for one in samples if one.users_done >= last * part / 8) for part in range(9)]
    names = list(asdict(samples[0]))
    print("\n" + " ".join(f"{name:>12}" for name in names))
    for one in eighths:
        print(" ".join(f"{value:12,.0f}" for value in asdict(one).values()))
    half = [one for one in samples if one.users_done >= last / 2 and one.sessions]  # else it is closing down
    print(f"\n{'over the second half':20} {'least':>12} {'most':>12} {'slope for 1,000 users':>24}")
    for name in names[2:]:
        values = [float(getattr(one, name)) for one in half]
        slope = linear_regression([one.users_done / 1000 for one in half], values).slope
        shown = f"{slope * 1024:+,.0f} bytes" if name.endswith("_kb") else f"{slope:+.4f}"
        print(f"{name:20} {min(values):12,.0f} {max(values):12,.0f} {shown:>24}")
