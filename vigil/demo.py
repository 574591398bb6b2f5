"""`vigil-backfill demo`: the main job end to end on this machine, with nothing but the commands users have.

Starts the simulated exchange, the embedded Postgres and the real commands as processes of their
own, in a temporary directory that is removed afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vigil.embedded import embedded_postgres
from vigil.errors import VigilError
from vigil.simulator.truth import open_truth

USERS = 300
SCALE = 0.25
"""Length of the histories: some 35,000 fills in all, with full pages among them."""
PERIOD_SECONDS = 1.5
"""Length of the exchange's "minute", so that what takes ten minutes takes some fifteen seconds."""


def run_demo() -> int:
    """Run the demo; returns 0 when the table equals the simulator's truth. Raises: VigilError."""
    with tempfile.TemporaryDirectory(prefix="vigil-demo-") as directory:
        home = Path(directory)
        with _simulator() as url, embedded_postgres(home / "postgres"):
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith(("VIGIL_", "HL_API_"))},
                "VIGIL_DATA_DIR": str(home / "postgres"),
                "VIGIL_API_URL": url,
                "VIGIL_WEIGHT_PERIOD_SECONDS": str(PERIOD_SECONDS),
            }
            users = home / "users.txt"
            users.write_text("\n".join(asyncio.run(_addresses(url))) + "\n")
            for command in (
                ("users", "add", "--users-file", str(users)),
                ("run", "--concurrency", "8"),
                ("status",),
                ("compare", url.removesuffix("/info")),
            ):
                print(f"\n$ vigil-backfill {shlex.join(command)}", flush=True)  # noqa: T201
                code = subprocess.run(_vigil(*command), env=environment, cwd=home, check=False).returncode  # noqa: S603
                if code != 0:
                    return code
    return 0


@contextmanager
def _simulator() -> Iterator[str]:
    command = ["simulate", "--port", "0", "--users", str(USERS), "--scale", str(SCALE)]
    command += ["--period-seconds", str(PERIOD_SECONDS), "--latency", "0.01-0.05"]
    print(f"$ vigil-backfill {shlex.join(command)} &", flush=True)  # noqa: T201
    process = subprocess.Popen(_vigil(*command), stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None  # noqa: S101
        name, _, url = process.stdout.readline().strip().partition("=")
        if name != "VIGIL_API_URL":
            raise VigilError("The simulator did not start.", hint="Run `vigil-backfill simulate` to see why.")
        yield url
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def _addresses(url: str) -> list[str]:
    async with open_truth(url) as truth:
        return [address async for address in truth.addresses()]


def _vigil(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vigil", *arguments]
