"""The real `vigil-backfill`, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass

from vigil.simulator import Simulator


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def environment(url: str, exchange: Simulator | None = None, **settings: object) -> dict[str, str]:
    """The environment of a command: this database, this exchange, impatient, nothing of the caller's own settings."""
    chosen: dict[str, object] = {
        "VIGIL_DATABASE_URL": url,
        "VIGIL_RETRY_MAX_SECONDS": 0.1,
        "VIGIL_BATCH_SECONDS": 0.02,
        "VIGIL_STARTUP_PATIENCE_SECONDS": 0.5,
        "VIGIL_MAINTAIN": 0,
    }
    if exchange is not None:
        chosen |= {"VIGIL_API_URL": exchange.url, "VIGIL_WEIGHT_PERIOD_SECONDS": exchange.config.period_seconds}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("VIGIL_", "HL_API_"))}
    return {**inherited, **{name: str(value) for name, value in {**chosen, **settings}.items()}}


async def start(*arguments: str, env: dict[str, str], stdin: bytes | None = None) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vigil",
        *arguments,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    if stdin:
        process.stdin.write(stdin)
    process.stdin.close()
    return process


async def finish(process: asyncio.subprocess.Process) -> Outcome:
    out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())


async def vigil(*arguments: str, env: dict[str, str], stdin: bytes | None = None) -> Outcome:
    """Run a command to its end."""
    return await finish(await start(*arguments, env=env, stdin=stdin))


async def stopped(process: asyncio.subprocess.Process, signum: signal.Signals) -> Outcome:
    """Send a signal and wait for the end."""
    process.send_signal(signum)
    return await finish(process)
