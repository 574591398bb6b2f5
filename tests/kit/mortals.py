"""Workers that are killed again and again while they share one run, each replaced at once.

    crew = Crew([["run"], ["run"], ["run"]], env)
    ends = await reap(crew, exchange, weight=5000, kills=12, rng=random.Random(1))

Two kinds of moments, both drawn by `rng`. A *late* death comes when the exchange has served a
certain share of what the histories cost, so that deaths spread over the whole run however fast the
machine is. An *early* one comes so many milliseconds after the birth of the youngest worker, from 1
(the interpreter has not even started) to `LONGEST_CHILDHOOD_SECONDS` (it claims and commits). Now and
then all die at once, so that nobody is left who could tell.
"""

from __future__ import annotations

import asyncio
import math
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from tests.kit.command import Outcome, finish, start
from vigil.simulator import Simulator

LONGEST_CHILDHOOD_SECONDS = 2.0
LAST_DEATH = 0.8
"""Share of the whole weight at which the last late death is due: the rest is for those who finish the run."""

CATASTROPHE_EVERY = 9
"""So many deaths lie between two moments at which the whole crew dies."""


@dataclass(frozen=True)
class Death:
    """One SIGKILL that met a living process."""

    pid: int
    age_seconds: float


class Crew:
    """Worker processes by number; `commands` holds the command line of each."""

    def __init__(self, commands: Sequence[Sequence[str]], env: dict[str, str]) -> None:
        self._commands = commands
        self._env = env
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self._born: dict[int, float] = {}
        self.deaths: list[Death] = []
        self.pids: set[int] = set()

    def __repr__(self) -> str:
        return f"<Crew of {len(self._commands)}, {len(self.deaths)} deaths>"

    @property
    def size(self) -> int:
        return len(self._commands)

    @property
    def ended(self) -> bool:
        """Whether one came to an end of itself: there is nothing left to do, or something is wrong."""
        return any(process.returncode is not None for process in self._alive.values())

    async def begin(self) -> None:
        for number in range(self.size):
            await self._give_birth(number)

    async def kill(self, number: int) -> None:
        """Kill a worker and put another in its place; one that has ended of itself stays as it is."""
        process = self._alive[number]
        try:
            process.send_signal(signal.SIGKILL)
        except ProcessLookupError:
            return
        age = asyncio.get_running_loop().time() - self._born[number]
        await finish(process)
        if process.returncode == -signal.SIGKILL:
            self.deaths.append(Death(process.pid, age))
            await self._give_birth(number)

    async def until_age(self, number: int, seconds: float) -> None:
        """Wait until a worker has lived for so long."""
        await asyncio.sleep(self._born[number] + seconds - asyncio.get_running_loop().time())

    def youngest(self) -> int:
        return max(self._born, key=self._born.__getitem__)

    async def ends(self) -> list[Outcome]:
        """Wait until all have ended of themselves."""
        return list(await asyncio.gather(*(finish(process) for process in self._alive.values())))

    async def bury(self) -> None:
        """Leave no process behind, whatever happened."""
        for process in self._alive.values():
            if process.returncode is None:
                process.kill()
                await finish(process)

    async def _give_birth(self, number: int) -> None:
        process = await start(*self._commands[number], env=self._env)
        self._alive[number] = process
        self._born[number] = asyncio.get_running_loop().time()
        self.pids.add(process.pid)


async def reap(crew: Crew, exchange: Simulator, weight: int, kills: int, rng: random.Random) -> list[Outcome]:
    """Start the crew, kill `kills` of it while `weight` is spent, and wait for the end of the run.

    Returns how the last ones ended; `crew.deaths` are fewer than `kills` if the run was over before.
    """
    try:
        await crew.begin()
        while len(crew.deaths) < kills and not crew.ended:
            done = len(crew.deaths)
            if done % CATASTROPHE_EVERY == CATASTROPHE_EVERY - 1:
                doomed = range(min(crew.size, kills - done))
            elif rng.random() < 0.5:
                doomed = range(crew.youngest(), crew.youngest() + 1)
                await crew.until_age(doomed[0], _log_uniform(rng, 0.001, LONGEST_CHILDHOOD_SECONDS))
            else:
                victim = rng.randrange(crew.size)
                doomed = range(victim, victim + 1)
                await _served(crew, exchange, LAST_DEATH * weight * (done + rng.random()) / kills)
            await asyncio.gather(*(crew.kill(number) for number in doomed))
        return await crew.ends()
    finally:
        await crew.bury()


async def _served(crew: Crew, exchange: Simulator, weight: float) -> None:
    while exchange.stats.weight_spent < weight and not crew.ended:  # noqa: ASYNC110  other processes spend it
        await asyncio.sleep(0.005)


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return low * math.exp(rng.random() * math.log(high / low))
