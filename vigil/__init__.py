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

Archive files go the same way in from the side: `load` reads them with `archives`, and `store` commits their
rows as it does those of pages. `export` is the way out.

**The rooms**, top to bottom; imports point down only (checked by import-linter):

    cli/                     commands, exit codes
    display, events, metrics what people, scripts and Prometheus see of a run       views   it at one moment (pure)
    demo                     the whole job on one machine  doctor    would a run work here?
    pipeline                 one run                       rehearsal table against truth
    audit, repair            verify; mend                  story     explain one user
    load, export             archive files in; files out   adopt     a foreign `fills` becomes ours
    samples                  how a run went, minute by minute    plan      what it will cost (pure)
    worker                   what a run and an audit share: identity, lease, lanes, client
    pager, writer            one user; the one writer      tally     a run in numbers
    status                   read-only questions           blame     whose fault no answer is (pure)
    known                    what the database knows of users, for `plan`    report   all of it on one page
    api, store, lanes        the exchange's door; the batch's transaction; shares of an address's budget
    judge, urgency, upkeep   verdicts as users finish; whose history is being lost; chunks and aggregates tended
    claims                   whose user is whose: workers, leases, the fence
    hypertable               the shape of `fills` on TimescaleDB, and on plain Postgres
    db, migrate, embedded    connections that heal; schema; a Postgres for those without
    simulator                an exchange of one's own (shares nothing with what it judges)
    limiter                  the weight budget             cursor    how a history is walked (pure)
    archives                 files to rows (no I/O of their own)     windows   what verify draws (pure)
    prior                    what is assumed of users of whom nothing is known (pure)
    verdict, differences, forecast, owners   what is proven; how two sets of rows differ; how long; whose fill (pure)
    copy_text                fills as Postgres reads them (pure)
    fills                    what a fill is (pure)         sources, egress   hosts to ask; ways out of this machine
    allowance                what one run may spend (pure)
    address, settings, errors                              logs      what is logged, as lines
    sql/                     every statement, one a file   ../migrations/  the schema

**Words.** user: an address. fill: one execution of one user. page: one answer of the exchange.
cursor: where a walk stands, in ms. progress: the cursor that is committed. claim: a user is one
worker's. lease: how long a worker is believed alive unheard. slice: an execution of a TWAP order,
served in a list of its own. verdict: what is proven of a user's completeness. source: a host to
ask. worker: one process. weight: the exchange's currency. budget: weight a period. lane: the
workers behind one address, which share one budget. egress: how a lane's requests leave. chunk:
what one page leaves to commit; in `hypertable` and `upkeep`, TimescaleDB's part of a table. batch:
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

- how a page is taken apart, a new column of `fills`: `fills.py`, `copy_text.py`, a migration, `sql/staging.sql`
  and the two statements beside it
- when a history ends, what counts as a gap: `cursor.py`
- what a request costs, how the budget is kept: `limiter.py`; where a run stops: `allowance.py`
- what `plan` expects: `sql/plan_left.sql`, `prior.py`, `plan.py`
- which errors are tried again, and by whom: `api.py`, `docs/errors.md`
- who works on which user, in what order: `claims.py`, `sql/pick_*.sql`
- when a history counts as complete: `verdict.py`, `sql/verdict_evidence.sql`
- who is read first: `urgency.py`, `sql/pick_urgent.sql`
- how workers of one address share: `lanes.py`, `migrations/003_many_workers.sql`
- by which address requests leave: `egress.py`, `limiter.admission`
- another archive format: `archives/`; where files come from: `load/places.py`
- what is packed or added up, and when: `hypertable.py`, `upkeep.py`, `migrations/006_hypertable.sql`
- which foreign tables can be adopted: `adopt/rules.py`, `adopt/plan.py`
- what `status` tells: `status.py`, `cli/status.py` (docs/status.md); its counters: `migrations/007_status.sql`
- what the report tells: `report/` (docs/report.md), `sql/report_*.sql`
- what a run shows: `tally.py`, then `views.py` (docs/json.md), `metrics.py` (docs/metrics.md, `prometheus/`,
  `grafana/`); other long commands: `cli/views.py`; log lines: `logs.py`
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
