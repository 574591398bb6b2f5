"""Passwords and keys stay where they were put: in no log, error, status, process title or table."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.kit.backfill import ask, small, tell
from tests.kit.command import environment, start, vigil
from tests.kit.loop import run
from vigil.simulator import FaultPlan, Simulator

SECRET = "geheim-4711"
KEY = "schluessel-4712"


def title_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def with_password(url: str, role: str) -> str:
    """The same database, as a role whose password is the secret."""
    await tell(url, f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{SECRET}'")
    parts = urlsplit(url)
    at = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{SECRET}@{at}"))


def test_a_password_is_seen_nowhere_whatever_happens(migrated_url: str) -> None:
    async def scenario() -> None:
        role = f"vigil_test_{secrets.token_hex(4)}"
        url = await with_password(migrated_url, role)
        faults = FaultPlan.parse(["500=0.2", "html200=0.1"], seed=3)
        said = []
        try:
            async with Simulator(small(30, seed=3, faults=faults, latency_seconds=(0.02, 0.02))) as exchange:
                api_url = exchange.url.replace("//", f"//{KEY}:{KEY}@") + f"?key={KEY}"
                env = environment(url, exchange, VIGIL_API_URL=api_url, VIGIL_PROGRESS_SECONDS=0.05)
                users = "\n".join(exchange.population.addresses(0, 30)).encode()
                process = await start("--debug", "run", "--users-file", "-", env=env, stdin=users)
                assert process.stderr is not None
                said.append(await process.stderr.readline())
                said.append(title_of(process.pid))
                said.append((await ask(migrated_url, ACTIVITY)).encode())
                out, err = await process.communicate()
                assert process.returncode in (0, 3), err
                said += [out, err]
                for command in (("status",), ("status", "--json"), ("users", "list", "--json"), ("migrate",)):
                    outcome = await vigil(*command, env=env)
                    assert outcome.code == 0, outcome.err
                    said.append((outcome.out + outcome.err).encode())
            gone = await vigil("--debug", "run", "--user", "0x" + "1" * 40, env=env)  # nobody listens there any more
            assert gone.code != 0
            said.append((gone.out + gone.err).encode())
            said.append((await ask(migrated_url, EVERYTHING)).encode())
        finally:
            await tell(migrated_url, f"REASSIGN OWNED BY {role} TO CURRENT_USER")
            await tell(migrated_url, f"DROP OWNED BY {role}")
            await tell(migrated_url, f"DROP ROLE {role}")
        for text in said:
            assert SECRET.encode() not in text
            assert KEY.encode() not in text

    run(scenario())


ACTIVITY = (
    "SELECT json_agg(application_name || ' ' || query)::text FROM pg_stat_activity WHERE datname = current_database()"
)

EVERYTHING = """
SELECT concat(
    (SELECT json_agg(t) FROM backfill_progress AS t), (SELECT json_agg(t) FROM backfill_workers AS t),
    (SELECT json_agg(t) FROM backfill_faults AS t), (SELECT json_agg(t) FROM rejected_fills AS t)
)
"""


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://vigil:{SECRET}@127.0.0.1:1/vigil",
        f"postgresql://vigil:{SECRET}@127.0.0.1:99999/vigil",
        f"postgresql://vigil:{SECRET}@127.0.0.1:port/vigil",
        f"postgresql://vigil:{SECRET}@127.0.0.1/vigil?sslmode={SECRET}",
        f"postgresql://vigil:{SECRET}@127.0.0.1/vigil?passfile=/{SECRET}&port=1",
        f"mysql://vigil:{SECRET}@127.0.0.1/vigil",
        f"{SECRET}",
    ],
)
def test_a_dsn_that_does_not_work_is_one_sentence_without_its_secrets(url: str) -> None:
    async def scenario() -> None:
        outcome = await vigil("status", env=environment(url))
        assert outcome.code in (2, 5)
        assert SECRET not in outcome.out + outcome.err
        assert len(outcome.err.strip().splitlines()) == 2
        traced = await vigil("--debug", "status", env=environment(url))
        assert "Traceback" in traced.err
        assert SECRET not in traced.err

    run(scenario())


def test_status_as_json_is_whole_and_parses(migrated_url: str) -> None:
    async def scenario() -> None:
        outcome = await vigil("status", "--json", env=environment(migrated_url))
        found = json.loads(outcome.out)
        assert {"users", "failed", "faults", "lanes", "errors", "workers_alive"} <= set(found)
        assert found["faults"]["throttled"] == 0

    run(scenario())
