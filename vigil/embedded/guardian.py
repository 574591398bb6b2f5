"""The guardian: a small detached process that owns one embedded Postgres, from initdb to shutdown.

It imports only the standard library, `cluster` and `remains`, so it is up in some 50 ms, and it survives whatever
becomes of the tool that started it.

Theory of operation
- A user is a process with an open connection to the guardian's control socket. The kernel
  closes that connection however the process ends, SIGKILL included. No pid files, no counting.
- The first user starts Postgres. Each is told `{"ready": true}` or `{"error": ..., "hint": ...}`,
  one JSON line. When the last one has gone, Postgres gets a fast shutdown and the guardian ends;
  a user who left politely sees its connection close only after that.
- `guardian.lock` is held by the one guardian, for life. `cluster.lock` is held by the server's
  processes themselves (see `remains`): nothing is started while any of an earlier one is left.
- Should the guardian be killed, the kernel tells the postmaster to shut down: no orphan, even
  if every user dies in the same instant. Users that live on notice the hang-up and start a new
  guardian, which waits for `cluster.lock` and starts Postgres again on the same socket.
- Should the postmaster be killed, the guardian clears the backends away and starts it again.
- A newcomer who connects while the guardian is stopping is cut off before it hears "ready". It
  tries again, and the next guardian waits for the locks.
- Two that start at the same moment both spawn a guardian; the one without the lock ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from vigil.embedded.cluster import Cluster
from vigil.embedded.remains import Failure, take_lock

FIRST_USER_SECONDS = 10.0  # who spawned us connects within milliseconds; after this it must be dead
LOCK_SECONDS = 1.0  # a client's probe holds guardian.lock for microseconds; longer means a rival guardian
REVIVALS = 5  # restarts of a crashing Postgres within REVIVAL_WINDOW_SECONDS before giving up
REVIVAL_WINDOW_SECONDS = 60.0
READY: dict[str, object] = {"ready": True}
LOG_BYTES = 5_000_000  # a longer server.log moves to server.log.1 at the next start


class Guardian:
    """Keeps `cluster` up while anybody is connected to the control socket."""

    def __init__(self, cluster: Cluster, control: Path) -> None:
        self.cluster = cluster
        self.control = control
        self.users: set[socket.socket] = set()
        self.leaving: list[socket.socket] = []  # left, and wait for the shutdown to finish
        self.revivals: list[float] = []
        self.selector = selectors.DefaultSelector()

        control.unlink(missing_ok=True)  # holding guardian.lock, what lies there is dead
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(control))
        control.chmod(0o600)
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)

        # SIGCHLD must wake the selector. SIGTERM and its kin are noted and ignored: whoever stops a
        # whole process group or service must not take Postgres from a tool that is still draining.
        # (A handler, not SIG_IGN, which Postgres would inherit.)
        self.alarm, wakeup = socket.socketpair()
        self.alarm.setblocking(False)
        wakeup.setblocking(False)
        self._wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        self.selector.register(self.alarm, selectors.EVENT_READ)

    def serve(self) -> None:
        """Return when Postgres is down and nobody wants it."""
        try:
            # Spurious readiness can't end the wait: only the clock, or a first user, does.
            deadline = time.monotonic() + FIRST_USER_SECONDS
            while not self._accept() and time.monotonic() < deadline:
                self._wait(deadline - time.monotonic())
            if self.users:
                self._serve_users()
        except Failure as failure:
            self._apologise(failure)
        except OSError as error:
            log = self.cluster.log
            self._apologise(Failure(f"The embedded Postgres could not be started: {error}.", f"Its log is {log}."))
        finally:
            # In this order: the name goes first, so that no newcomer finds a socket nobody accepts
            # on; one already in the backlog is reset by close() and tries again with the next guardian.
            self.control.unlink(missing_ok=True)
            self.listener.close()
            self.cluster.stop()

    def hang_up(self) -> None:
        """Let go of everybody. Comes after the lock is free, so that who was waiting finds nothing left."""
        for user in (*self.users, *self.leaving):
            user.close()

    def _serve_users(self) -> None:
        self.cluster.start()
        for user in self.users:
            _tell(user, READY)
        while self.users:
            self._wait(None)
            # The look for newcomers comes after the last user left: cheaper than a restart.
            newcomers = self._accept()
            if not self.users:
                return
            for user in self.leaving:
                user.close()  # others keep the server up: there is no shutdown to wait for
            self.leaving.clear()
            if self.cluster.crashed():
                self._revive()
            for user in newcomers:
                _tell(user, READY)

    def _apologise(self, failure: Failure) -> None:
        _note(str(failure))
        for user in self.users:
            _tell(user, {"error": str(failure), "hint": failure.hint})

    def _revive(self) -> None:
        now = time.monotonic()
        self.revivals = [at for at in self.revivals if now - at < REVIVAL_WINDOW_SECONDS]
        if len(self.revivals) >= REVIVALS:
            raise Failure("The embedded Postgres keeps crashing.", f"Its log is {self.cluster.log}.")
        self.revivals.append(now)
        _note("Postgres ended without being asked to; starting it again")
        self.cluster.start()

    def _accept(self) -> list[socket.socket]:
        newcomers = []
        with suppress(BlockingIOError):
            while True:
                user, _ = self.listener.accept()
                newcomers.append(user)
                self.users.add(user)
                self.selector.register(user, selectors.EVENT_READ)
        return newcomers

    def _wait(self, timeout: float | None) -> None:
        """Sleep until something happens, and see off the users who left."""
        for key, _ in self.selector.select(timeout):
            if key.fileobj is self.alarm:
                with suppress(BlockingIOError):
                    self.alarm.recv(4096)
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self.users:
                self._hear(key.fileobj)

    def _hear(self, user: socket.socket) -> None:
        try:
            if user.recv(4096):
                return  # users have nothing to say; a later version might
        except OSError:
            pass  # reset: gone as well
        self.selector.unregister(user)
        self.users.discard(user)
        if self.users:
            user.close()
        else:
            self.leaving.append(user)


def _tell(user: socket.socket, message: dict[str, object]) -> None:
    with suppress(OSError):  # it left; the selector will say so
        user.sendall(json.dumps(message).encode() + b"\n")


def _note(text: str) -> None:
    sys.stderr.write(f"guardian {os.getpid()}: {text}\n")
    sys.stderr.flush()


def _rotate(log: Path) -> None:
    if log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
        fresh = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
        os.close(fresh)


def main(data_dir: str, bin_dir: str, run_dir: str, *account: str) -> None:
    """Detach, become the one guardian of `data_dir` or leave that to a rival, and serve."""
    if os.fork():
        # The second fork of a daemon: the tool's child ends at once, so it never has
        # a zombie or an unreaped process to account for.
        os._exit(0)
    lock = os.open(Path(data_dir) / "guardian.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while not take_lock(lock):
        if time.monotonic() > deadline:
            return  # a rival is there, or is stopping: the client that spawned us will ask again
        time.sleep(0.01)
    server_account = (int(account[0]), int(account[1])) if account else None
    cluster = Cluster(Path(data_dir), Path(bin_dir), Path(run_dir) / "pg", server_account)
    _rotate(cluster.log)
    guardian = Guardian(cluster, Path(run_dir) / "guardian")
    try:
        guardian.serve()
    finally:
        os.close(lock)
        guardian.hang_up()
