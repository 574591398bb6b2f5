"""The embedded Postgres, with real processes that are really killed.

"Gone" is not guessed from pids: every server process inherits `cluster.lock`, and the guardian
holds `guardian.lock`, so being able to lock both proves that nothing is left.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from tests.kit.loop import run
from vigil.embedded import embedded_postgres
from vigil.errors import EmbeddedPostgresError

GONE_SECONDS = 30.0  # a deadline, not a measurement: a loaded machine is slow
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties the server's life to the guardian's")

# A process that uses the server until its stdin is closed; it ignores Ctrl-C, as a draining tool does.
USER = """\
import signal, sys
from pathlib import Path
from vigil.embedded import embedded_postgres
signal.signal(signal.SIGINT, signal.SIG_IGN)
with embedded_postgres(Path(sys.argv[1])) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """Initialised once; every test finds it stopped, and must leave it stopped."""
    with TemporaryDirectory(prefix="vigil-tests-") as folder:
        with embedded_postgres(Path(folder) / "data") as dsn:
            sql(dsn, "CREATE TABLE kept (a int)")
        yield Path(folder) / "data"


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: any other pytest of the same user that starts meanwhile closes its parent to
    # all but that user, and as root the server runs as somebody else.
    with TemporaryDirectory(prefix="vigil-tests-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def nothing_is_left(data_dir: Path) -> Iterator[None]:
    yield
    assert until(lambda: is_gone(data_dir)), "the test left a server running"


def sql(dsn: str, statement: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return run(ask())


def until(condition: Callable[[], bool], seconds: float = GONE_SECONDS) -> bool:
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True


def is_gone(data_dir: Path) -> bool:
    for name in ("guardian.lock", "cluster.lock"):
        with (data_dir / name).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def answers(dsn: str) -> bool:
    # The internal error: its server died between the handshake and the statement.
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return sql(dsn, "SELECT 1") == 1
    return False


def postmaster(data_dir: Path) -> int:
    """Its pid; waits while the file is not there, as between a crash and the restart."""
    file = data_dir / "cluster" / "postmaster.pid"
    assert until(lambda: file.exists() and file.read_text().split("\n")[0].isdigit())
    return int(file.read_text().split("\n")[0])


def guardian(data_dir: Path) -> int:
    """Pid of the process that started the postmaster."""
    return int(Path(f"/proc/{postmaster(data_dir)}/stat").read_text().rsplit(") ", 1)[1].split()[1])


def start_user(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def user_process(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with start_user(data_dir) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_clean_exit_stops_the_server_and_the_next_start_finds_the_data(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as dsn:
        marker = random.randrange(1 << 30)
        sql(dsn, f"INSERT INTO kept VALUES ({marker})")
        assert not is_gone(data_dir)
    assert is_gone(data_dir)  # at once: leaving waits for the shutdown
    with embedded_postgres(data_dir) as dsn:
        assert sql(dsn, f"SELECT count(*) FROM kept WHERE a = {marker}") == 1


def test_server_is_durable_and_does_not_listen_on_tcp(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as dsn:
        assert [sql(dsn, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")] == ["on"] * 3
        assert sql(dsn, "SHOW listen_addresses") == ""
        assert sql(dsn, "SELECT current_database()") == "vigil"


def test_postgres_variables_of_the_environment_do_not_matter(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGSSLMODE": "require", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with embedded_postgres(data_dir) as dsn:
        assert answers(dsn)


def test_a_dropped_database_is_created_again(folder: Path) -> None:
    with embedded_postgres(folder) as dsn:
        sql(dsn.replace("/vigil?", "/postgres?"), "DROP DATABASE vigil")
    with embedded_postgres(folder) as dsn:
        assert sql(dsn, "SELECT current_database()") == "vigil"


def test_kill_9_of_the_only_user_leaves_no_orphan_and_loses_nothing(data_dir: Path) -> None:
    with user_process(data_dir) as (process, dsn):
        marker = random.randrange(1 << 30)
        sql(dsn, f"INSERT INTO kept VALUES ({marker})")
        process.kill()
        assert until(lambda: is_gone(data_dir))
    with embedded_postgres(data_dir) as dsn:
        assert sql(dsn, f"SELECT count(*) FROM kept WHERE a = {marker}") == 1


def test_two_processes_share_one_server_and_the_last_one_out_stops_it(data_dir: Path) -> None:
    with user_process(data_dir) as (first, dsn), user_process(data_dir) as (second, other_dsn):
        assert dsn == other_dsn
        first.kill()
        first.wait()
        assert not until(lambda: is_gone(data_dir), 0.5)
        assert answers(dsn)
        assert second.stdin is not None
        second.stdin.close()
        assert second.wait(GONE_SECONDS) == 0
        assert is_gone(data_dir)


def test_four_first_starts_at_once_end_in_one_server(folder: Path) -> None:
    users = [start_user(folder / "new") for _ in range(4)]
    try:
        dsns = {user.stdout.readline().strip() for user in users if user.stdout is not None}
        assert len(dsns) == 1
        assert answers(dsns.pop())
    finally:
        for user in users:
            user.kill()
            with user:
                pass
    assert until(lambda: is_gone(folder / "new"))
    assert (folder / "new" / "server.log").read_text().count("ready to accept connections") == 1


@linux_only
def test_ctrl_c_in_the_terminal_reaches_the_tool_alone(data_dir: Path) -> None:
    with user_process(data_dir) as (process, dsn):
        # What a terminal does: the signal goes to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        assert answers(dsn)
        assert {os.getsid(postmaster(data_dir)), os.getsid(guardian(data_dir))}.isdisjoint({process.pid, os.getsid(0)})


@linux_only
def test_signals_that_stop_a_service_do_not_take_the_server_from_a_draining_user(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as dsn:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(guardian(data_dir), signum)
        assert not until(lambda: not answers(dsn), 0.3)


@linux_only
def test_killed_postmaster_is_replaced_under_the_same_dsn_and_loses_nothing(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as dsn:
        marker = random.randrange(1 << 30)
        sql(dsn, f"INSERT INTO kept VALUES ({marker})")
        killed = postmaster(data_dir)
        os.kill(killed, signal.SIGKILL)
        assert until(lambda: answers(dsn) and postmaster(data_dir) != killed)
        assert sql(dsn, f"SELECT count(*) FROM kept WHERE a = {marker}") == 1


@linux_only
def test_killed_guardian_is_replaced_while_users_live(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as dsn:
        killed = guardian(data_dir)
        os.kill(killed, signal.SIGKILL)
        assert until(lambda: answers(dsn) and guardian(data_dir) != killed)
        assert (data_dir / "server.log").read_text().count(f"guardian {killed}") == 0
    assert is_gone(data_dir)


@linux_only
def test_killing_user_and_guardian_in_the_same_instant_leaves_no_orphan(data_dir: Path) -> None:
    with user_process(data_dir) as (process, dsn):
        os.kill(guardian(data_dir), signal.SIGKILL)
        process.kill()
        assert until(lambda: is_gone(data_dir))
        assert not answers(dsn)


@linux_only
def test_everything_killed_at_once_and_the_pid_given_to_a_stranger_still_starts(data_dir: Path) -> None:
    with user_process(data_dir) as (process, _):
        pids = [guardian(data_dir), postmaster(data_dir), process.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: is_gone(data_dir))
    pid_file = data_dir / "cluster" / "postmaster.pid"
    assert pid_file.exists()
    # As in a restarted container: the number now belongs to another living process.
    pid_file.write_text(re.sub(r"^\d+", str(os.getpid()), pid_file.read_text()))
    with embedded_postgres(data_dir) as dsn:
        assert answers(dsn)


@linux_only
@pytest.mark.parametrize("after_seconds", [0.15, 0.6])
def test_killed_during_the_first_start_the_next_one_works(folder: Path, after_seconds: float) -> None:
    path = folder / "new"
    with start_user(path) as process:
        assert until(lambda: any(path.glob("cluster*/PG_VERSION")))
        time.sleep(after_seconds)  # a moment inside initdb or the first start; which one does not matter
        killed = {int(pid.name) for pid in Path("/proc").glob("[0-9]*") if str(path) in command_line(pid)}
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
    assert killed
    with embedded_postgres(path) as dsn:
        assert answers(dsn)


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_newcomer_arriving_while_the_last_user_leaves_gets_a_server(data_dir: Path) -> None:
    for delay in (0.0, 0.005, 0.02, 0.05):
        with user_process(data_dir) as (process, _):
            process.kill()
            time.sleep(delay)
            with embedded_postgres(data_dir) as dsn:
                assert answers(dsn)


def test_long_and_odd_data_directory_works_with_a_private_socket_elsewhere(folder: Path) -> None:
    path = folder / ("deep, with 'quotes' and %20 " * 2) / ("x" * 80)
    with embedded_postgres(path) as dsn:
        assert answers(dsn)
        sockets = Path(str(sql(dsn, "SHOW unix_socket_directories")).strip('"'))
        assert len(str(sockets)) < 60
        assert sockets.stat().st_mode & 0o077 == 0
    assert until(lambda: is_gone(path))
    sockets.rmdir()
    sockets.parent.rmdir()


def test_a_socket_directory_made_by_somebody_else_is_refused(folder: Path) -> None:
    path = folder / "data"
    (path / "run").mkdir(parents=True)
    (path / "run").chmod(0o777)
    with pytest.raises(EmbeddedPostgresError, match="belongs to somebody else"), embedded_postgres(path):
        pass


def test_data_of_another_major_version_is_told_in_one_sentence(folder: Path) -> None:
    (folder / "cluster").mkdir()
    (folder / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match="written by Postgres 16") as caught, embedded_postgres(folder):
        pass
    assert caught.value.hint


def test_a_data_directory_that_cannot_be_made_is_told_in_one_sentence(folder: Path) -> None:
    (folder / "file").write_text("")
    with (
        pytest.raises(EmbeddedPostgresError, match="can't be used") as caught,
        embedded_postgres(folder / "file" / "data"),
    ):
        pass
    assert caught.value.hint


def test_a_server_that_cannot_start_tells_its_own_reason(folder: Path) -> None:
    (folder / "cluster").mkdir(mode=0o700)
    (folder / "cluster" / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedPostgresError, match=r"did not start: .+") as caught, embedded_postgres(folder):
        pass
    assert "server.log" in caught.value.hint
    assert until(lambda: is_gone(folder))
