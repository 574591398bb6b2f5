"""The tool's side of the embedded Postgres: take a seat, keep it, leave.

A seat is an open connection to the guardian (see `guardian` for the theory of operation). Must
not touch the cluster: it only ever asks the guardian, and starts one if there is none.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vigil.embedded.place import Place, prepare, unusable
from vigil.errors import EmbeddedPostgresError

GUARDIAN_SECONDS = 120.0  # until a guardian answers; a stopping one may first have to finish a checkpoint
READY_SECONDS = 600.0  # from its answer to "ready": crash recovery replays up to 2 GB of WAL
LEAVE_SECONDS = 5.0  # how long a clean exit waits for the shutdown; the guardian finishes without us
RESPAWN_SECONDS = 0.25  # between two tries to start a guardian; one is up in about 50 ms
SPAWNS = 12  # guardians that ended at once before we stop trying
CUT_OFFS = 6  # times a guardian hung up before "ready"; a stopping one does so once

_LOG = logging.getLogger(__name__)

# The guardian's first line. Importing `vigil` itself would pull in the HTTP stack (some 0.3 s); an
# empty stand-in for the parent package lets it import `vigil.embedded` alone. -S skips site-packages.
_BOOT = """\
import sys, types
sys.modules["vigil"] = parent = types.ModuleType("vigil")
parent.__path__ = [sys.argv.pop(1)]
from vigil.embedded.guardian import main
main(*sys.argv[1:])
"""


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Yield the DSN of the database `vigil` in the Postgres of `data_dir`, created and started as needed.

    Blocks while Postgres starts (0.2 s; about 1 s the first time; longer for crash recovery) and, on
    leaving as the last user, up to 5 s while it stops. If Postgres dies in between it is
    started again at the same DSN: connections break, new ones work within about a second.

    Raises:
        EmbeddedPostgresError: it can't be had; one sentence and a hint.
    """
    seat = Seat(prepare(data_dir))
    try:
        seat.take()
        yield seat.place.dsn
    finally:
        seat.leave()


class Seat:
    """One process' claim on the server; held until `leave`, or until the process ends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._mutex = threading.Lock()  # guards the two below, shared with the keeper thread
        self._line: socket.socket | None = None
        self._left = False
        self._keeper = threading.Thread(target=self._keep, name="embedded-postgres-seat", daemon=True)

    def take(self) -> None:
        try:
            self._line = self._sit_down()
        except OSError as error:
            raise unusable(self.place.data_dir, error) from error
        self._keeper.start()

    def leave(self) -> None:
        with self._mutex:
            self._left = True
            if self._line is None:
                return  # never taken
            with suppress(OSError):  # the guardian may be gone already
                # Half-closed: the guardian sees us leave, and closes its half once Postgres is down.
                self._line.shutdown(socket.SHUT_WR)
        self._keeper.join(LEAVE_SECONDS)
        self._line.close()

    def _keep(self) -> None:
        """Wait for the guardian to hang up; unless we are leaving, it was killed: bring up another."""
        while True:
            assert self._line is not None  # noqa: S101 # set before this thread starts
            with suppress(OSError):
                while self._line.recv(4096):
                    pass
            if self._left:
                return
            _LOG.warning("The embedded Postgres lost its guardian; starting it again.")
            try:
                line = self._sit_down()
            except (EmbeddedPostgresError, OSError) as error:
                _LOG.error("The embedded Postgres could not be started again: %s", error)
                return
            with self._mutex:
                self._line.close()
                self._line = line
                if self._left:
                    # leave() half-closed the old line while we were connecting: do the same here.
                    line.shutdown(socket.SHUT_WR)

    def _sit_down(self) -> socket.socket:
        """Connect to a guardian that says "ready", starting one if there is none."""
        give_up_at = time.monotonic() + GUARDIAN_SECONDS
        spawn_at, spawns, cut_offs = 0.0, 0, 0
        while time.monotonic() < give_up_at and spawns <= SPAWNS and cut_offs <= CUT_OFFS:
            line = self._connect()
            if line is not None:
                if self._hear_ready(line):
                    return line
                cut_offs += 1  # it was stopping, or was killed
            elif time.monotonic() >= spawn_at and self._unguarded():
                self._spawn_guardian()
                spawns += 1
                spawn_at = time.monotonic() + RESPAWN_SECONDS
            time.sleep(0.01)
        raise EmbeddedPostgresError(
            f"The embedded Postgres of {self.place.data_dir} could not be started.",
            hint=f"Its log is {self.place.data_dir / 'server.log'}.",
        )

    def _connect(self) -> socket.socket | None:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(str(self.place.run_dir / "guardian"))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            # No guardian (yet, or any more), or a crowd in front of it.
            line.close()
            return None
        except OSError:
            line.close()
            raise
        return line

    def _hear_ready(self, line: socket.socket) -> bool:
        """False when the guardian hung up. The line is closed unless the answer is "ready"."""
        ready = False
        try:
            line.settimeout(READY_SECONDS)
            answer = b""
            with suppress(ConnectionResetError):
                while not answer.endswith(b"\n") and (piece := line.recv(4096)):
                    answer += piece
            told = json.loads(answer) if answer.endswith(b"\n") else {}
            if "error" in told:
                raise EmbeddedPostgresError(told["error"], hint=told["hint"])
            line.settimeout(None)
            ready = bool(told.get("ready"))
        except TimeoutError as error:
            raise EmbeddedPostgresError(
                f"The embedded Postgres was not ready within {READY_SECONDS:.0f} s.",
                hint=f"Its log is {self.place.data_dir / 'server.log'}.",
            ) from error
        finally:
            if not ready:
                line.close()
        return ready

    def _unguarded(self) -> bool:
        """Whether no guardian holds its lock: it neither runs, starts nor stops."""
        lock = os.open(self.place.data_dir / "guardian.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A starting guardian that meets this probe tries again, for a second.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _spawn_guardian(self) -> None:
        """Start a guardian, detached; harmless if another one wins."""
        place = self.place
        package = Path(__file__).resolve().parent.parent
        arguments = [package, place.data_dir, place.bin_dir, place.run_dir, *(place.account or ())]
        log_path = place.data_dir / "server.log"
        with log_path.open("ab") as log:
            done = subprocess.run(  # noqa: S603 # our own arguments
                [sys.executable, "-I", "-S", "-c", _BOOT, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",  # it outlives us and must not keep a file system busy
                start_new_session=True,  # Ctrl-C in our terminal must not reach it
            )
        if done.returncode != 0:
            raise EmbeddedPostgresError(
                "The guardian of the embedded Postgres could not be started.", hint=f"Its log is {log_path}."
            )
