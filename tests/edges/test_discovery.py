"""Finding the users of `fills`: all of them, page by page, and beside the work where somebody is known already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from tests.kit.backfill import WINDOW, ask, backfill, compared, everybody, settings_for, small, tell
from tests.kit.loop import run
from vigil import claims as claims_module
from vigil.claims import Claims, hold_worker_lock, new_worker_id
from vigil.db import Link
from vigil.pipeline import Run
from vigil.settings import Settings
from vigil.simulator import Simulator

KNOWN = "SELECT coalesce(array_agg(user_address ORDER BY user_address), '{}') FROM backfill_progress"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "DISCOVERED_AT_ONCE", 3)
    monkeypatch.setattr(claims_module, "POLL_SECONDS", 0.02)


def address(number: int) -> str:
    return f"0x{number:040x}"


async def archive(url: str, addresses: Iterable[str], rows: int = 1) -> None:
    """Fills as an archive left them: of these users, over two years."""
    await tell(
        url,
        "INSERT INTO fills (user_address, time, coin, side, px, sz, oid, tid)"
        " SELECT u, timestamptz '2025-07-28' + n * interval '20 days', 'BTC', 'B', 1, 1, n, n"
        " FROM unnest($1::text[]) AS u CROSS JOIN generate_series(1, $2::int) AS n",
        list(addresses),
        rows,
    )


@asynccontextmanager
async def claiming(url: str) -> AsyncIterator[tuple[Claims, Link]]:
    """A worker's claims on everybody, and a link to spare."""
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    worker = new_worker_id()
    control, spare = Link(url, settings, prepare=hold_worker_lock(worker)), Link(url, settings)
    try:
        yield Claims(control, settings, worker, WINDOW), spare
    finally:
        await control.close()
        await spare.close()


@pytest.mark.parametrize("users", [0, 1, 3, 4, 6, 8])
def test_every_user_is_found_whatever_the_pages_hold(migrated_url: str, users: int) -> None:
    async def scenario() -> None:
        everyone = [address(number) for number in range(1, users + 1)]
        await archive(migrated_url, everyone, rows=4)
        async with claiming(migrated_url) as (claims, _):
            await claims.enroll()
        assert await ask(migrated_url, KNOWN) == everyone

    run(scenario())


def test_addresses_in_capitals_are_one_user_and_what_is_none_holds_up_nobody(migrated_url: str) -> None:
    async def scenario() -> None:
        mixed = ["", "0x", "0xAA" + "a" * 38, "0x" + "a" * 40, "0x" + "A" * 40, "nobody", address(7), "0X" + "b" * 40]
        await archive(migrated_url, mixed)
        async with claiming(migrated_url) as (claims, _):
            await claims.enroll()
        assert await ask(migrated_url, KNOWN) == [address(7), "0x" + "a" * 40, "0x" + "b" * 40]

    run(scenario())


def test_with_somebody_to_begin_with_the_others_are_found_beside_the_work_and_waited_for(migrated_url: str) -> None:
    async def scenario() -> None:
        await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ($1)", address(99))
        others = [address(number) for number in range(1, 8)]
        await archive(migrated_url, others)
        async with claiming(migrated_url) as (claims, spare):
            await claims.enroll(beside=True)
            assert await ask(migrated_url, KNOWN) == [address(99)]
            await claims.register()
            first = await claims.next()
            assert first is not None
            waiting = asyncio.ensure_future(claims.next())
            await asyncio.sleep(0)
            assert not waiting.done()
            await claims.discover(spare)
            second = await waiting
            assert second is not None
            found = {second.user}
            while len(found) < len(others):
                claim = await claims.next()
                assert claim is not None
                found.add(claim.user)
            assert (first.user, sorted(found)) == (address(99), others)
            await claims.release()

    run(scenario())


def test_with_nobody_known_the_work_begins_with_the_first_page(migrated_url: str) -> None:
    async def scenario() -> None:
        await archive(migrated_url, [address(number) for number in range(1, 8)])
        async with claiming(migrated_url) as (claims, spare):
            await claims.enroll(beside=True)
            assert len(await ask(migrated_url, KNOWN)) == 3
            await claims.discover(spare)
            assert len(await ask(migrated_url, KNOWN)) == 7

    run(scenario())


def test_a_run_ends_only_when_every_user_of_the_table_has_been_found_and_read(migrated_url: str) -> None:
    async def scenario() -> None:
        async with Simulator(small(20, 79)) as exchange:
            everyone = everybody(exchange)
            await archive(migrated_url, everyone[1:])
            await tell(migrated_url, "INSERT INTO backfill_progress (user_address) VALUES ($1)", everyone[0])
            tally = await Run(settings_for(exchange), migrated_url, WINDOW).execute()
            assert (tally.users_done, tally.users_total) == (20, 20)
            await tell(migrated_url, "DELETE FROM fills WHERE hash IS NULL")  # the archive's
            found = await compared(exchange, migrated_url)
            assert found.equal, found.examples
            assert (await backfill(exchange, migrated_url)).requests == 0

    run(scenario())
