"""What an earlier Postgres of this data directory may have left behind: processes, lock files.

Used by `cluster` before it starts anything. Must not start anything itself. Standard library only.

`cluster.lock` is held by whatever touches the cluster: initdb, the postmaster and every backend
inherit its descriptor, so the kernel frees it when the last of *them* is gone, orphans included.
Nothing is started before that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

FAST_STOP_SECONDS = 60.0  # a fast shutdown ends with a checkpoint; beyond this, crash recovery is the lesser evil
QUIT_SECONDS = 5.0  # from SIGQUIT (backends drop everything) to SIGKILL
BACKEND_SECONDS = 0.2  # an idle backend notices by itself, within this, that its postmaster has died
GIVE_UP_SECONDS = 30.0  # after all of that; also what an orphaned initdb may take to end


class Failure(Exception):
    """Postgres can't be had: one sentence and the next step, passed on to every user."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def take_lock(descriptor: int) -> bool:
    """Try for the exclusive lock; it lasts until every copy of the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Remains:
    """Processes whose title holds `marker`, and files that say a server runs."""

    def __init__(self, data_dir: Path, socket_dir: Path, marker: str) -> None:
        self.data_dir = data_dir
        self.pid_file = data_dir / "cluster" / "postmaster.pid"
        self.socket_dir = socket_dir
        self.marker = marker.encode()

    def outlast(self) -> int:
        """Wait until no process of an earlier server is left, hurrying those that linger.

        Returns the descriptor of `cluster.lock`, locked.
        Raises: Failure when something will not go.
        """
        lock = os.open(self.data_dir / "cluster.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if take_lock(lock):
            return lock
        begun = time.monotonic()
        steps = self._steps()
        while not take_lock(lock):
            elapsed = time.monotonic() - begun
            if steps and elapsed >= steps[0][0]:
                _, signum = steps.pop(0)
                for pid in self._processes():
                    with suppress(OSError):
                        os.kill(pid, signum)
            if not steps and elapsed > FAST_STOP_SECONDS + GIVE_UP_SECONDS:
                os.close(lock)
                raise Failure(
                    f"An earlier Postgres of {self.data_dir} did not end.",
                    "Look for its processes with: ps aux | grep postgres",
                )
            time.sleep(0.01)
        return lock

    def forget_locks(self) -> None:
        """Remove what a killed server left to say that it runs: postmaster.pid, and its socket's lock file.

        Postgres copes with a dead pid, but not with one that was given to another process, as
        happens at once in restarted containers, nor with a zombie that nobody has reaped. Whoever
        holds cluster.lock knows that no server of ours lives; one that somebody started by hand on
        these files is left to Postgres' own check.
        """
        pid = self._recorded_pid()
        try:
            alive = pid is not None and b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            alive = not Path("/proc/self").exists()  # no /proc, no proof: leave it to Postgres
        if not alive:
            for stale in (self.pid_file, *self.socket_dir.glob(".s.PGSQL.*")):
                stale.unlink(missing_ok=True)

    def _steps(self) -> list[tuple[float, signal.Signals]]:
        """Which signal to send after how many seconds."""
        if self._recorded_pid() in self._processes():
            # The kernel told this postmaster to shut down when its guardian died; SIGQUIT only if it hangs.
            return [(FAST_STOP_SECONDS, signal.SIGQUIT), (FAST_STOP_SECONDS + QUIT_SECONDS, signal.SIGKILL)]
        # Backends without a postmaster have no reason to live, but may sit in a long statement for ever.
        return [(BACKEND_SECONDS, signal.SIGQUIT), (BACKEND_SECONDS + QUIT_SECONDS, signal.SIGKILL)]

    def _processes(self) -> list[int]:
        """Pids of server processes of this cluster.

        Found by the cluster name in their titles: /proc/*/cmdline can be read without privilege,
        unlike `cwd`. Where there is no /proc (macOS) none are found, and waiting must do.
        """
        found = []
        for title in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                text = title.read_bytes()
                program = text.split(b"\0")[0]
                backend = program.startswith(b"postgres: " + self.marker)
                postmaster = os.path.basename(program) == b"postgres" and self.marker in text
                if backend or postmaster:
                    found.append(int(title.parent.name))
        return found

    def _recorded_pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text().split("\n")[0])
        except (OSError, ValueError):
            return None
