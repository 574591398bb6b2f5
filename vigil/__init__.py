"""vigil: every Hyperliquid user's historical fills, from the public API into TimescaleDB.

This is the map of the house. As a library: `from vigil import HyperliquidAPI`.

**The flow** goes one way:

    claim ──> page ──> decode ──> queue ──> write
    claims    api      fills      pipeline  writer, store
              limiter  cursor
              pager

A worker claims one user after the other (`claims`), walks its history forward (`cursor`, driven by
`pager`), each request within the exchange's weight budget (`limiter`, `api`), decodes the answer
(`fills`) and queues what is new. One writer (`writer`) commits batches: fills and the users'
progress in one transaction (`store`). `pipeline` opens all this, stops it in order, sums it up.

**The rooms**, top to bottom; imports point down only (checked by import-linter):

    cli/                     commands, exit codes          display   what people see of a run
    demo                     the whole job on one machine  rehearsal table against truth
    pipeline                 one run                       audit, repair, story   verify; mend; explain
    worker                   what a run and an audit share: identity, lease, lane, client
    pager, writer, report    one user; the one writer; read-only questions
    blame                    whose fault it is when a user gets no answer (pure)
    api, store, lanes        the exchange's door; the batch's transaction; shares of an address's budget
    judge, urgency           verdicts as users finish; whose history is being lost
    claims                   whose user is whose: workers, leases, the fence
    db, migrate, embedded    connections that heal; schema; a Postgres for those without
    simulator                an exchange of one's own (shares nothing with what it judges)
    limiter                  the weight budget            cursor     how a history is walked (pure)
    owners                   whose fill is whose (pure)   verdict    what is proven of a history (pure)
    windows, differences     what verify draws; how two sets of rows differ (pure)
    sources                  hosts that speak the exchange's protocol
    egress                   by which address a lane's requests leave
    fills                    what a fill is (pure)        address, settings, errors
    sql/                     every statement, one a file   ../migrations/  the schema

**Words.** user: an address. fill: one execution of one user. page: one answer of the exchange.
cursor: where a walk stands, in ms. progress: the cursor that is committed. claim: a user is one
worker's. lease: how long a worker is believed alive unheard. slice: an execution of a TWAP order,
served in a list of its own. verdict: what is proven of a user's completeness. source: a host to
ask. worker: one process. weight: the exchange's currency. budget: weight a period. lane: the
workers behind one address, which share one budget. chunk: what one page leaves to commit. batch:
chunks committed together. gap: a span in which rows may be missing. run: one `vigil-backfill run`.

**Invariants.** Whoever changes the code keeps these; each has tests of its name.

- A page is the *earliest* rows at or after its start; the next starts *at* the last time seen.
- Only what is committed exists: cancelled, crashed and killed are one recovery.
- Fills and cursor are committed in one transaction, fenced by the worker's row.
- received = inserted + updated + already there (+ refused, which are in `rejected_fills`).
- The key of a fill is (user_address, time, coin, oid, tid, side); `tid` alone is none.
- No float touches a number on its way; nothing known is replaced by NULL.
- What the exchange would answer 429 is not sent; what nobody can have is recorded, never passed over.

**Where do I change ...**

- how a page is taken apart, a new column of `fills`: `fills.py`, a migration, `sql/staging.sql` and
  the three statements beside it
- when a history ends, what counts as a gap: `cursor.py`
- what a request costs, how the budget is kept: `limiter.py`
- which errors are tried again, and by whom: `api.py`, `docs/errors.md`
- who works on which user, in what order: `claims.py`, `sql/pick_*.sql`
- when a history counts as complete: `verdict.py`, `sql/verdict_evidence.sql`
- who is read first: `urgency.py`, `sql/pick_urgent.sql`
- how workers of one address share: `lanes.py`, `migrations/003_many_workers.sql`
- a setting: `settings.py` and `.env.example`; a command: `cli/`
- how the exchange behaves in tests: `simulator/`
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vigil.api import HyperliquidAPI

__all__ = ["HyperliquidAPI"]


def __getattr__(name: str) -> Any:
    if name == "HyperliquidAPI":  # on demand, so that `vigil.errors` and its like stay light to import
        from vigil.api import HyperliquidAPI

        return HyperliquidAPI
    raise AttributeError(f"module 'vigil' has no attribute {name!r}")
