"""A Hyperliquid of one's own: the exchange's fill endpoints, simulated on a local socket.

**Why it exists.** The fetcher promises that *table == truth*. On the real exchange nobody knows
the truth; here it is known to the row, for any number of users and without spending weight. The
simulator is therefore written independently: it shares no code with the fetcher (only
`vigil.errors.UsageError`), so that a misunderstanding can't be made twice in the same way.

**What it models**, with the grade of the fact:

- PROVEN: a page is the *earliest* 2,000 fills from an inclusive `startTime` on, ascending, in
  execution order, and the cap may split a millisecond; `tid` is shared by both sides of a trade
  and is 0 on dust conversions; perp positions form a chain, printed as floats, noise included;
  strangers answer `[]`; malformed bodies 422; rows of 2023 may lack `tid`, `feeToken`, `twapId`.
- MEASURED: `endTime` is inclusive; 429 has body `null` and no `Retry-After`; answers can drip.
- DOC: the newest 10,000 fills of the *whole* history are reachable (`retention_rows`), so users
  who go on trading (`moving`) push old fills out; 1,200 weight a minute and address, 20 a
  request plus one per 20 rows.
- UNKNOWN, hence selectable: how the minute is measured (`window_model`), how rows / 20 is rounded.

**What it does not**: aggregation (422), the indexer's lag, `reversed`, the softness of the retention
limit, listing dates of coins, one price for all users, TWAP slices of made-up users, other endpoints.

**Rooms**, in the order in which the data flows: `coins`, `addresses` -> `book` (positions and
rows) -> `life` (what a user does) -> `population` (who, cached) and `replay` (recorded answers)
-> `exchange` (pages, retention) -> `weights`, `faults` -> `wire`, `info`, `server` (HTTP). Everything
but the last three is pure and deterministic: same seed, same moment, same answer.

    async with Simulator(SimulatorConfig(users=100, scale=0.1)) as exchange:
        address = exchange.population.address(7)
        ...  # POST to exchange.url, then compare with exchange.truth(address, start_ms, end_ms)
"""

from .config import DEFAULT_NOW_MS, SimulatorConfig
from .faults import FaultPlan, UserFault
from .info import Stats
from .population import History, Population
from .replay import Recording
from .server import Simulator, serve

__all__ = [
    "DEFAULT_NOW_MS",
    "FaultPlan",
    "History",
    "Population",
    "Recording",
    "Simulator",
    "SimulatorConfig",
    "Stats",
    "UserFault",
    "serve",
]
