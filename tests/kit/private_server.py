"""A Postgres of the test's own, to be hurt: stopped, killed, starved of disk or connections, failed over.

It runs the binaries of the embedded Postgres, but not through `embedded_postgres`, whose guardian would
mend it before the test looks. Everything here blocks: call it with `asyncio.to_thread` while a run goes on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.kit.database import Server
from vigil.embedded.place import prepare

DEADLINE_SECONDS = 60.0  # to start, recover or end, on a busy machine: beyond it the test fails
BALLAST_BYTES = 1 << 16  # written at once while a disk is filled

ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}  # none of the caller's PG* variables; messages in English

SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # only a part of the socket's file name
    "max_connections": "12",
    "superuser_reserved_connections": "3",
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "wal_buffers": "8MB",  # so much may be committed, asynchronously, in memory alone
    "wal_level": "replica",
    "log_line_prefix": "%e %u ",  # SQLSTATE and role: what `told` looks for
    "timezone": "UTC",
}


class PrivateServer:
    """One cluster in `directory` and the processes on it; `settings` override SETTINGS."""

    def __init__(self, directory: Path, **settings: str) -> None:
        place = prepare(directory)
        self.data = directory / "cluster"
        self.sockets = place.run_dir / "pg"
        self._bin = place.bin_dir
        self._settings = {**SETTINGS, "unix_socket_directories": f'"{self.sockets}"', **settings}
        # Postgres refuses to be root: then it, and what it is given, belong to this account.
        self._account = place.account
        self._identity: dict[str, Any] = (
            {} if place.account is None else {"user": place.account[0], "group": place.account[1], "extra_groups": []}
        )
        self._log = place.data_dir / "server.log"
        self._lock = place.data_dir / "server.lock"
        self._postmaster: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<PrivateServer {self.data} {'up' if self.running else 'down'}>"

    @property
    def url(self) -> str:
        return self.url_by(self.sockets)

    def url_by(self, sockets: Path) -> str:
        """The DSN by another name of the directory of its socket."""
        return f"postgresql://vigil@/postgres?host={sockets}&port=5432&sslmode=disable"

    @property
    def running(self) -> bool:
        """Whether there is a postmaster; it may be recovering."""
        return self._postmaster is not None and self._postmaster.poll() is None

    # Making it

    def create(self, *, wal: Path | None = None) -> None:
        """initdb, with the write-ahead log in `wal` if given; segments of 1 MB, so that new ones are needed often."""
        elsewhere = [] if wal is None else [f"--waldir={self.make_room(wal)}"]
        authentication = ["--auth-local=trust", "--auth-host=reject"]
        self.make_room(self.data)
        options = ["--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1", *elsewhere]
        self._tool("initdb", "-D", str(self.data), "-U", "vigil", *authentication, *options)

    def copy_from(self, primary: PrivateServer) -> None:
        """Become a standby of `primary`: its files as they are now, and what it writes from then on."""
        self.make_room(self.data)
        options = ["-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync"]
        self._tool("pg_basebackup", *options, "-h", str(primary.sockets), "-U", "vigil")

    def make_room(self, path: Path) -> Path:
        """A new directory that belongs to the server."""
        path.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(path, *self._account)
        return path

    # Its life

    def start(self) -> None:
        """Return when it takes connections. Waits for the last process of an earlier life to end."""
        lock = self._outlast()
        try:
            # Nobody is left, so these only name pids that may be somebody else's by now.
            for stale in (self.data / "postmaster.pid", *self.sockets.glob(".s.PGSQL.*")):
                stale.unlink(missing_ok=True)
            arguments = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
            with self._log.open("ab") as log:
                self._postmaster = subprocess.Popen(
                    [str(self._bin / "postgres"), "-D", str(self.data), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=ENVIRONMENT,
                    cwd="/",
                    pass_fds=(lock,),  # every backend inherits it: free when the last one is gone
                    start_new_session=True,
                    **self._identity,
                )
        finally:
            os.close(lock)
        if not self._comes_up():
            raise AssertionError(f"the private server did not start: {self._log.read_text()[-2000:]}")

    def mend(self) -> None:
        """Up, whatever was done to it, and without the settings that a test made."""
        if not self.running or not self._comes_up():
            self.start()
        self.sql("ALTER SYSTEM RESET ALL")
        self.reload()

    def set(self, name: str, value: str) -> None:
        """A setting, in force for every session that begins from now on, and soon for those there are."""
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.reload()

    def reload(self) -> None:
        self.sql("SELECT pg_reload_conf()")
        automatic = "SELECT count(*) FROM pg_settings WHERE sourcefile LIKE '%postgresql.auto.conf'"
        written = "SELECT count(DISTINCT name) FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'"
        while self.sql(f"SELECT ({automatic}) = ({written})") != "t":
            time.sleep(0.01)  # the postmaster reads the file when it gets round to it

    def stop(self, signum: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: a fast shutdown; SIGQUIT: an immediate one, to be recovered from; SIGKILL: the postmaster alone."""
        if self.running:
            assert self._postmaster is not None
            self._postmaster.send_signal(signum)
            self._postmaster.wait(DEADLINE_SECONDS)
        os.close(self._outlast())

    def kill(self) -> None:
        """SIGKILL to every process of the server."""
        if not self.running:
            return
        assert self._postmaster is not None
        children = self.sql("SELECT pid FROM pg_stat_activity").split()
        self._postmaster.send_signal(signal.SIGSTOP)  # or it would end the others in its own, gentler way
        for child in children:
            with suppress(ProcessLookupError):  # the one that told us
                os.kill(int(child), signal.SIGKILL)
        self.stop(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it stands still meanwhile: the kernel takes connections, and nobody answers."""
        assert self._postmaster is not None
        pid = self._postmaster.pid
        os.kill(pid, signal.SIGSTOP)  # first, lest it bear another child
        pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split())]
        for child in pids[1:]:
            os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in pids:
                os.kill(one, signal.SIGCONT)

    # Asking it

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What one statement answers, over psql: for what must block, or not mind the state of a run."""
        where = ["-h", str(self.sockets), "-p", "5432", "-U", "vigil", "-d", database]
        return self._tool("psql", "-XqtAw", "-v", "ON_ERROR_STOP=1", *where, "-c", statement).strip()

    def log_size(self) -> int:
        """For `told`: everything said from now on is after this."""
        return self._log.stat().st_size

    def told(self, text: str, since: int) -> bool:
        """Whether its log says `text` after `since`."""
        with self._log.open("rb") as log:
            log.seek(since)
            return text.encode() in log.read()

    def _comes_up(self) -> bool:
        """Wait until it takes connections, after a start or a crash; False if it ended instead."""
        assert self._postmaster is not None
        ask = [str(self._bin / "pg_isready"), "-q", "-h", str(self.sockets), "-p", "5432"]
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        while self._postmaster.poll() is None and time.monotonic() < give_up_at:
            if subprocess.run(ask, env=ENVIRONMENT, cwd="/", **self._identity).returncode == 0:
                return True
            time.sleep(0.01)
        return False

    def _outlast(self) -> int:
        """The descriptor of the lock that every process of the server holds: nobody is left."""
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    os.close(lock)
                    raise AssertionError("processes of the private server do not end") from None
                time.sleep(0.01)
            else:
                return lock

    def _tool(self, program: str, *arguments: str) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(self._bin / program), *arguments],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
            check=False,
            **self._identity,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout


@contextmanager
def serving_privately(*, wal: Path | None = None, **settings: str) -> Iterator[PrivateServer]:
    """A private server, up; killed and gone at the end."""
    # Not pytest's tmp_path: as root the server's own account can't reach into it.
    with TemporaryDirectory(prefix="vigil-tests-") as folder:
        server = PrivateServer(Path(folder) / "primary", **settings)
        server.create(wal=wal)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@contextmanager
def standby_of(primary: PrivateServer) -> Iterator[PrivateServer]:
    """A read-only copy that follows `primary`, up; until somebody promotes it."""
    with TemporaryDirectory(prefix="vigil-tests-") as folder:
        standby = PrivateServer(Path(folder) / "standby")
        standby.copy_from(primary)
        standby.start()
        try:
            yield standby
        finally:
            standby.stop(signal.SIGQUIT)


@contextmanager
def database_on(server: PrivateServer, databases: Server) -> Iterator[str]:
    """A migrated database on it; however a test leaves the server, the next one finds it up."""
    server.mend()
    with databases.database(migrated=True) as url:
        yield url
        server.mend()


class Disk:
    """A small file system of its own at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave not a block free."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            size = BALLAST_BYTES
            while size:
                try:
                    ballast.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        (self.path / "ballast").unlink(missing_ok=True)


class NoDisk(Exception):
    """No file system can be mounted here; the message says why."""


@contextmanager
def small_disk(megabytes: int) -> Iterator[Disk]:
    """A tmpfs of that size. Raises: NoDisk where mounting is not permitted."""
    with TemporaryDirectory(prefix="vigil-tests-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except OSError as error:
            raise NoDisk(f"there is no `mount`: {error.strerror}") from error
        except subprocess.CalledProcessError as error:
            raise NoDisk(f"mounting a tmpfs is not permitted: {error.stderr.strip()}") from error
        try:
            yield Disk(Path(folder))
        finally:
            # Lazy: a server that is ending may have a file of it open yet.
            subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)
