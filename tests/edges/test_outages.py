"""A database server that is really hurt while a run goes on: nothing is lost, nothing comes twice.

The server is a private one (`tests.kit.private_server`), whatever database the other tests use. What a
broken *line* does to a batch is shown over a proxy in `test_store`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from tests.kit.backfill import WINDOW, ask, backfill, compared, everybody, settings_for, small, tell, until
from tests.kit.cancelling import Steps
from tests.kit.command import environment, finish, start
from tests.kit.database import Server
from tests.kit.factories import fill_of, wire_row
from tests.kit.loop import run
from tests.kit.private_server import (
    SETTINGS,
    Disk,
    NoDisk,
    PrivateServer,
    database_on,
    serving_privately,
    small_disk,
    standby_of,
)
from tests.kit.proxy import Fate, Proxy
from vigil.claims import Claims, hold_worker_lock, new_worker_id, session_name
from vigil.db import Link
from vigil.errors import EXIT_TEMPORARY, VigilError
from vigil.metrics import serving_metrics
from vigil.pipeline import Run
from vigil.settings import Settings
from vigil.simulator import Simulator, SimulatorConfig
from vigil.store import Chunk, Store, prepare_staging
from vigil.tally import Tally

T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with serving_privately() as started:
        yield started


@pytest.fixture(scope="module")
def databases(server: PrivateServer) -> Server:
    return Server(server.url)


@pytest.fixture
def url(server: PrivateServer, databases: Server) -> Iterator[str]:
    """A migrated database on the private server, which is up and as it was made."""
    with database_on(server, databases) as migrated:
        yield migrated


def some_users(seed: int, longest: int = 2_500) -> SimulatorConfig:
    """Short histories, and two of several pages."""
    return small(24, seed, lengths={0: longest, 12: 2_500}, scale=0.05)


def started(exchange: Simulator, url: str) -> asyncio.Task[Tally]:
    """A run that outlasts any outage here. It fetches little ahead and commits little at once: many moments to hurt."""
    return asyncio.create_task(
        backfill(exchange, url, database_patience_seconds=60.0, concurrency=4, queue_pages=4, batch_rows=300)
    )


async def ends_well(running: asyncio.Task[Tally], exchange: Simulator, url: str) -> None:
    """The run completes: the table is the truth, and every row was received and inserted once."""
    tally = await running
    found = await compared(exchange, url)
    assert found.equal, found.examples
    assert found.rows == tally.inserted == tally.received
    assert (tally.users_done, tally.users_failed) == (exchange.config.users, 0)


def impatient() -> Settings:
    given: dict[str, Any] = {"_env_file": None, "database_patience_seconds": 10.0}
    return Settings(**given)


async def meanwhile(running: asyncio.Task[Tally], reached: Awaitable[T]) -> T:
    """What is awaited, unless the run ends before it: that is an error."""
    waiting = asyncio.ensure_future(reached)
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        waiting.cancel()
        await asyncio.wait({waiting})
        raise AssertionError(f"the run ended too early: {running.result()}")
    return waiting.result()


# Moments: where the writer is when its server is hurt

IN_A_BATCH, IN_COMMIT = 4711, 4712
HOLDS = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::bigint); RETURN NULL; END $$;
CREATE TRIGGER in_a_batch AFTER INSERT ON fills FOR EACH STATEMENT EXECUTE FUNCTION hold({IN_A_BATCH});
CREATE CONSTRAINT TRIGGER in_commit AFTER UPDATE ON backfill_workers DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.committed_batch IS DISTINCT FROM OLD.committed_batch) EXECUTE FUNCTION hold({IN_COMMIT});
"""
WAITS = "wait_event = 'advisory' AND datname = current_database()"


@asynccontextmanager
async def held(url: str, moment: int) -> AsyncIterator[int]:
    """The writer stands still at `moment`, in the session of the pid, until the block or the server ends."""
    holder = await asyncpg.connect(url)
    try:
        await holder.execute(f"SELECT pg_advisory_lock({moment})")
        await until(url, f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {WAITS})")
        yield await holder.fetchval(f"SELECT pid FROM pg_stat_activity WHERE {WAITS}")
    finally:
        holder.terminate()


async def more_requests(exchange: Simulator, count: int) -> None:
    served = exchange.stats.requests + count
    while exchange.stats.requests < served:  # noqa: ASYNC110  the exchange has no event for it
        await asyncio.sleep(0.002)


# Restarted and killed

Hurt = Callable[[PrivateServer, int], None]


def shut_down_and_started(server: PrivateServer, _: int) -> None:
    server.stop(signal.SIGINT)
    server.start()


def shut_down_at_once_and_started(server: PrivateServer, _: int) -> None:
    server.stop(signal.SIGQUIT)
    server.start()


def killed_and_started(server: PrivateServer, _: int) -> None:
    server.kill()
    server.start()


def postmaster_killed_and_started(server: PrivateServer, _: int) -> None:
    server.stop(signal.SIGKILL)
    server.start()


def backend_killed(_: PrivateServer, writer: int) -> None:
    os.kill(writer, signal.SIGKILL)  # the postmaster then ends every session and recovers


@pytest.mark.parametrize(
    "hurt",
    [
        shut_down_and_started,
        shut_down_at_once_and_started,
        killed_and_started,
        postmaster_killed_and_started,
        backend_killed,
    ],
)
def test_a_run_goes_on_when_its_server_is(server: PrivateServer, url: str, hurt: Hurt) -> None:
    rng = random.Random(7)

    async def scenario() -> None:
        await tell(url, HOLDS)
        async with Simulator(some_users(31)) as exchange:
            running = started(exchange, url)
            for moment in (IN_A_BATCH, IN_COMMIT):
                await meanwhile(running, more_requests(exchange, rng.randint(1, 6)))
                async with held(url, moment) as writer:
                    await meanwhile(running, asyncio.to_thread(hurt, server, writer))
            await ends_well(running, exchange, url)

    run(scenario())


def test_a_new_session_that_dies_while_it_ends_the_old_one_is_one_more_outage(url: str) -> None:
    async def scenario() -> None:
        async with Proxy(url) as proxy:
            link = Link(proxy.url, impatient(), server_settings=session_name(new_worker_id()))
            try:
                await link.run(prepare_staging)
                proxy.cut()
                again = proxy.once(b"pg_terminate_backend", Fate.CUT_AFTER)
                await link.run(prepare_staging)
                assert again.fired.is_set()
            finally:
                await link.close()

    run(scenario())


# Away, and how long a run waits


async def is_told(server: PrivateServer, text: str, since: int) -> None:
    """Until the server's log says it."""
    while not server.told(text, since):  # noqa: ASYNC110  another process writes it
        await asyncio.sleep(0.01)


async def first_commit(url: str) -> None:
    await until(url, "SELECT EXISTS (SELECT FROM fills)")


async def ends_with_5(process: asyncio.subprocess.Process) -> None:
    outcome = await finish(process)
    assert outcome.code == 5, outcome.err
    assert "The database" in outcome.err
    assert "Traceback" not in outcome.err


async def completes(exchange: Simulator, url: str) -> None:
    """The next run goes on to the truth."""
    tally = await backfill(exchange, url)
    assert tally.exit_code == 0
    found = await compared(exchange, url)
    assert found.equal, found.examples


async def a_command(exchange: Simulator, url: str) -> asyncio.subprocess.Process:
    """`vigil-backfill run` for everybody, which does not wait long for its database."""
    env = environment(url, exchange, VIGIL_DATABASE_PATIENCE_SECONDS=0.5, VIGIL_CONCURRENCY=4, VIGIL_QUEUE_PAGES=4)
    return await start("run", "--users-file", "-", env=env, stdin="\n".join(everybody(exchange)).encode())


def test_a_server_that_stays_away_ends_the_run_with_5_and_the_next_completes(server: PrivateServer, url: str) -> None:
    async def scenario() -> None:
        await tell(url, HOLDS)
        async with Simulator(some_users(32)) as exchange:
            process = await a_command(exchange, url)
            async with held(url, IN_COMMIT):
                await asyncio.to_thread(server.stop)
            await ends_with_5(process)
            await asyncio.to_thread(server.start)
            await completes(exchange, url)

    run(scenario())


# Out of disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    try:
        with small_disk(64) as mounted:
            yield mounted
    except NoDisk as error:
        pytest.skip(f"NOT SHOWN: what a run does when the disk is full. {error}")


@pytest.fixture
def url_on_disk(disk: Disk, server: PrivateServer, databases: Server) -> Iterator[str]:
    """A database that lies on the small disk, whole: tables, indexes and what is temporary."""
    server.mend()
    server.sql(f"CREATE TABLESPACE small LOCATION '{server.make_room(disk.path / 'tables')}'")
    with database_on(server, databases) as migrated:
        server.sql(f"ALTER DATABASE {urlsplit(migrated).path[1:]} SET TABLESPACE small")
        yield migrated
        disk.free()
    server.sql("DROP TABLESPACE small")


DISK_FULL = "53100 "


def test_a_run_waits_while_the_disk_of_its_tables_is_full(server: PrivateServer, disk: Disk, url_on_disk: str) -> None:
    url = url_on_disk

    async def scenario() -> None:
        async with Simulator(some_users(33)) as exchange:
            running = started(exchange, url)
            await meanwhile(running, first_commit(url))
            since = server.log_size()
            disk.fill()
            await meanwhile(running, is_told(server, DISK_FULL, since))
            disk.free()
            await ends_well(running, exchange, url)

    run(scenario())


def test_a_disk_that_stays_full_ends_the_run_with_5_and_the_next_completes(
    server: PrivateServer, disk: Disk, url_on_disk: str
) -> None:
    async def scenario() -> None:
        async with Simulator(some_users(34)) as exchange:
            process = await a_command(exchange, url_on_disk)
            await first_commit(url_on_disk)
            disk.fill()
            await ends_with_5(process)
            disk.free()
            await completes(exchange, url_on_disk)

    run(scenario())


def test_a_run_goes_on_after_a_full_disk_of_the_log_brought_the_server_down(disk: Disk) -> None:
    async def scenario(server: PrivateServer, url: str) -> None:
        async with Simulator(some_users(35, longest=6_500)) as exchange:
            running = started(exchange, url)
            await meanwhile(running, first_commit(url))
            since = server.log_size()
            disk.fill()
            await meanwhile(running, is_told(server, "PANIC", since))
            disk.free()
            await meanwhile(running, asyncio.to_thread(server.mend))
            await ends_well(running, exchange, url)

    # Each new segment is a new file, so the next MB does not fit.
    with (
        serving_privately(wal=disk.path / "log", wal_recycle="off") as server,
        database_on(server, Server(server.url)) as url,
    ):
        run(scenario(server, url))


# Out of connections


SLOTS = int(SETTINGS["max_connections"]) - int(SETTINGS["superuser_reserved_connections"])


@pytest.fixture
def roles(server: PrivateServer, url: str) -> Iterator[None]:
    """Two that own nothing and may not use the slots reserved for the superuser: the run's, and somebody else's."""
    name = urlsplit(url).path[1:]
    server.sql("CREATE ROLE worker LOGIN")
    server.sql("CREATE ROLE other LOGIN")
    server.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO worker", name)
    server.sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO worker", name)
    yield
    server.mend()
    server.sql("DROP OWNED BY worker CASCADE", name)
    server.sql("DROP ROLE worker")
    server.sql("DROP ROLE other")


@asynccontextmanager
async def every_slot_taken(url: str) -> AsyncIterator[None]:
    """All the connections there are belong to somebody else; none is left for the worker."""
    terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'worker'"
    async with AsyncExitStack() as stack:
        taken = 0
        while taken < SLOTS:  # the worker is quick to come back: until the other was quicker
            await ask(url, terminate)
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    connection = await asyncpg.connect(url.replace("vigil@", "other@"))
                    stack.push_async_callback(connection.close)
                    taken += 1
        yield


@pytest.mark.usefixtures("roles")
def test_a_run_waits_while_others_have_all_the_connections(server: PrivateServer, url: str) -> None:
    async def scenario() -> None:
        async with Simulator(some_users(36)) as exchange:
            running = started(exchange, url.replace("vigil@", "worker@"))
            await meanwhile(running, first_commit(url))
            async with every_slot_taken(url):
                await meanwhile(running, is_told(server, "53300 worker", server.log_size()))
            await ends_well(running, exchange, url)

    run(scenario())


# Read-only, and failed over

READ_ONLY = "25006 "


def test_a_run_waits_while_its_server_is_read_only(server: PrivateServer, url: str) -> None:
    async def scenario() -> None:
        async with Simulator(some_users(37)) as exchange:
            running = started(exchange, url)
            await meanwhile(running, first_commit(url))
            since = server.log_size()
            await asyncio.to_thread(server.set, "default_transaction_read_only", "on")
            # Sessions that there were may still write.
            await ask(
                url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            await meanwhile(running, is_told(server, READ_ONLY, since))
            await asyncio.to_thread(server.mend)
            await ends_well(running, exchange, url)

    run(scenario())


class Name:
    """A name by which a run knows its server, as in a DNS: it may come to mean another."""

    def __init__(self, folder: Path, server: PrivateServer) -> None:
        self._link = folder / "current"
        self.means(server)

    def means(self, server: PrivateServer) -> None:
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(server.sockets)

    def url(self, server: PrivateServer, url: str) -> str:
        """A DSN of `server`, by this name."""
        return url.replace(str(server.sockets), str(self._link))


@pytest.fixture
def name(server: PrivateServer) -> Iterator[Name]:
    with TemporaryDirectory(prefix="vigil-tests-") as folder:
        yield Name(Path(folder), server)


def test_a_run_goes_on_at_the_standby_that_takes_over(server: PrivateServer, url: str, name: Name) -> None:
    async def scenario(standby: PrivateServer) -> None:
        async with Simulator(some_users(38)) as exchange:
            running = started(exchange, name.url(server, url))
            await meanwhile(running, first_commit(url))
            await meanwhile(running, asyncio.to_thread(server.kill))
            since = standby.log_size()
            name.means(standby)  # read-only as yet
            await meanwhile(running, is_told(standby, READ_ONLY, since))
            await meanwhile(running, asyncio.to_thread(standby.sql, "SELECT pg_promote()"))
            await ends_well(running, exchange, name.url(server, url))

    with standby_of(server) as standby:
        server.set("synchronous_standby_names", "*")  # what is committed is on both
        run(scenario(standby))


# Servers that lose what they had called committed

FORGETFUL = small(4, 39, lengths=dict.fromkeys(range(4), 4_500))
"""Everybody's history takes several pages, so that a batch that is lost has others after it."""


async def goes_on_or_stops(running: asyncio.Task[Tally], exchange: Simulator, url: str) -> None:
    """Whether the run ended or not: with the next one the table is the truth."""
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    if isinstance(outcome, BaseException):
        assert isinstance(outcome, VigilError), outcome
        assert outcome.exit_code == EXIT_TEMPORARY, outcome
    await completes(exchange, url)


def test_a_crash_that_takes_back_a_commit_leaves_no_hole(server: PrivateServer, url: str) -> None:
    """With `synchronous_commit = off` a server calls committed what a crash of it forgets."""
    server.set("synchronous_commit", "off")
    server.set("wal_writer_delay", "10s")
    server.set("wal_writer_flush_after", "1GB")
    server.set("bgwriter_lru_maxpages", "0")  # to write a page is to write its log first

    async def scenario() -> None:
        await tell(url, HOLDS)
        async with Simulator(FORGETFUL) as exchange:
            running = started(exchange, url)
            async with held(url, IN_A_BATCH):
                await tell(url, "CHECKPOINT")  # so far nothing is forgotten
            async with held(url, IN_A_BATCH):  # the batch before is committed, and only in memory
                await meanwhile(running, asyncio.to_thread(killed_and_started, server, 0))
            await goes_on_or_stops(running, exchange, url)

    run(scenario())


def test_a_standby_that_lacks_a_commit_takes_over_and_leaves_no_hole(
    server: PrivateServer, url: str, name: Name
) -> None:
    async def scenario(standby: PrivateServer) -> None:
        await tell(url, HOLDS)
        async with Simulator(FORGETFUL) as exchange:
            running = started(exchange, name.url(server, url))
            async with held(url, IN_A_BATCH):
                await until(url, "SELECT bool_and(replay_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication")
                await meanwhile(running, asyncio.to_thread(standby.stop))
            async with held(url, IN_A_BATCH):  # the batch before is committed, but not at the standby
                await meanwhile(running, asyncio.to_thread(server.kill))
            await meanwhile(running, asyncio.to_thread(standby.start))
            await meanwhile(running, asyncio.to_thread(standby.sql, "SELECT pg_promote()"))
            name.means(standby)
            await goes_on_or_stops(running, exchange, name.url(server, url))

    with standby_of(server) as standby:
        run(scenario(standby))


# Cancelled at every await

SLICE, SLICES = 6, 16
"""Each cancelled run has users of its own, or the later ones would find less and less to do."""

OURS = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'vigil%' AND datname = current_database()"


async def leaves_nothing(url: str, steps: Steps) -> None:
    assert not steps.left_running
    assert not steps.complaints
    await until(url, OURS)


def test_a_run_cancelled_at_any_await_leaves_no_session_and_no_task(migrated_url: str) -> None:
    rng = random.Random(41)

    async def scenario() -> None:
        pages = dict.fromkeys(range(SLICE, SLICE * SLICES, 3 * SLICE), 2_100)
        async with Simulator(small(SLICE * SLICES, 41, lengths=pages, scale=0.05)) as exchange:
            users = everybody(exchange)
            whole = Steps()
            await whole.run(backfill(exchange, migrated_url, users=users[:SLICE]))
            cancelled = 0
            for number in range(1, SLICES):
                stratum = whole.count / (SLICES - 1)
                cancel_at = 1 + int(stratum * (number - 1 + rng.random()))
                steps = Steps(cancel_at, late=rng.random() < 0.5)
                mine = users[number * SLICE : (number + 1) * SLICE]
                cancelled += await steps.run(backfill(exchange, migrated_url, users=mine)) is None
                await leaves_nothing(migrated_url, steps)
            assert cancelled > SLICES / 2
            await completes(exchange, migrated_url)

    run(scenario())


@asynccontextmanager
async def a_claim(url: str, user: str) -> AsyncIterator[tuple[Claims, Store]]:
    """A worker of its own, that may claim this user only."""
    worker = new_worker_id()
    settings = impatient()
    control = Link(url, settings, prepare=hold_worker_lock(worker), server_settings=session_name(worker))
    writing = Link(url, settings, prepare=prepare_staging, server_settings=session_name(worker))
    claims = Claims(control, settings, worker, WINDOW, users=[user])
    try:
        await claims.enroll()
        await claims.register()
        yield claims, Store(writing, worker, lease_seconds=60.0)
        await claims.release()
    finally:
        await control.close()
        await writing.close()


@pytest.mark.parametrize("late", [False, True])
def test_a_commit_cancelled_at_any_await_is_applied_whole_or_not_at_all(migrated_url: str, late: bool) -> None:
    url = migrated_url

    async def scenario() -> None:
        cancelled, cancel_at, committed = True, 0, 0
        while cancelled:
            cancel_at += 1
            user = f"0x{cancel_at:040x}"
            rows = [wire_row(WINDOW.start_ms + n, n) for n in range(1, 21)]
            chunk = Chunk(user, WINDOW.start_ms + 20, [fill_of(row) for row in rows])
            async with a_claim(url, user) as (claims, store):
                assert await claims.next() is not None
                steps = Steps(cancel_at, late=late)
                cancelled = await steps.run(store.commit([chunk])) is None
                assert not steps.left_running
                assert not steps.complaints
            await until(url, OURS)
            state = "SELECT (SELECT count(*) FROM fills WHERE user_address = $1), fills_count, cursor_ms FROM"
            found = await row_of(url, f"{state} backfill_progress WHERE user_address = $1", user)
            assert found in ((20, 20, WINDOW.start_ms + 20), (0, 0, WINDOW.start_ms))
            committed += found[0] == 20
        assert cancel_at > 10
        assert 1 <= committed < cancel_at

    run(scenario())


async def row_of(url: str, query: str, *arguments: object) -> tuple[object, ...]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(query, *arguments)
        assert row is not None
        return tuple(row.values())
    finally:
        await connection.close()


@pytest.mark.parametrize("late", [False, True])
def test_a_claim_cancelled_at_any_await_is_one_that_can_be_freed(migrated_url: str, late: bool) -> None:
    url = migrated_url

    async def scenario() -> None:
        cancelled, cancel_at = True, 0
        while cancelled:
            cancel_at += 1
            async with a_claim(url, f"0x{cancel_at:040x}") as (claims, _):
                steps = Steps(cancel_at, late=late)
                cancelled = await steps.run(claims.next()) is None
                assert not steps.left_running
                assert not steps.complaints
            await until(url, OURS)
            assert await ask(url, "SELECT count(*) FROM backfill_progress WHERE claimed_by IS NOT NULL") == 0
        assert cancel_at > 5

    run(scenario())


async def answers(port: int, path: str, status: int) -> str:
    """What that path says as soon as it answers with `status`."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        while True:
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                if answer.status == status:
                    return await answer.text()
            await asyncio.sleep(0.05)  # it changes in a thread of the server's, and with time


def test_a_worker_whose_database_is_stuck_is_alive_and_not_ready_until_it_answers_again(
    url: str, server: PrivateServer
) -> None:
    async def scenario() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve(look: Callable[[], Tally]) -> None:
            with serving_metrics(0, look, {}) as bound:
                port.set_result(bound)
                await asyncio.Event().wait()

        async with Simulator(small(60, 5, latency_seconds=(0.5, 0.5))) as exchange:  # more than the test waits for
            chosen = settings_for(exchange, concurrency=1, database_patience_seconds=60.0)
            work = asyncio.create_task(Run(chosen, url, WINDOW, users=everybody(exchange), display=serve).execute())
            bound = await port
            await answers(bound, "/readyz", 200)
            with server.frozen():
                said = await answers(bound, "/readyz", 503)
                assert "the database has not answered for" in said
                assert await answers(bound, "/healthz", 200) == "ok\n"
                told = await answers(bound, "/metrics", 200)
                assert re.search(r"^vigil_lane_share_weight{.*} 0.0$", told, re.MULTILINE)
                assert float(re.findall(r"^vigil_database_silent_seconds (.*)$", told, re.MULTILINE)[0]) > 1.5
            await answers(bound, "/readyz", 200)
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    run(scenario())
