"""A ledger that the database itself keeps while workers come and go: who held whom, and who wrote what.

    await open_ledger(url)
    ...  # workers run, and die
    assert await broken_rules(url) == {}

Triggers write it inside the workers' own transactions, so it holds exactly what was committed. The
order of one user's entries is the order in which its row changed hands: whoever changes the row
holds its lock until the commit. Made for `vigil`'s tables, but of its code it knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

_TABLES = """
CREATE TABLE ledger_workers (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    worker_id bigint NOT NULL,
    pid integer NOT NULL,
    what text NOT NULL  -- born, gone
);
-- Each change of a user's row, also those that leave its owner alone.
CREATE TABLE ledger_progress (
    entry bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
    session text NOT NULL DEFAULT current_setting('application_name'),
    user_address text NOT NULL,
    old_owner bigint,
    new_owner bigint,
    owner_lives boolean NOT NULL,  -- whether the owner, or the one it was taken from, is a worker just now
    rows_counted bigint NOT NULL
);
CREATE TABLE ledger_fills (
    transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
    session text NOT NULL DEFAULT current_setting('application_name'),
    user_address text NOT NULL,
    rows bigint NOT NULL
);
"""

_FUNCTIONS = """
CREATE FUNCTION ledger_note_worker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO ledger_workers (worker_id, pid, what) VALUES (NEW.worker_id, NEW.pid, 'born');
    ELSE
        INSERT INTO ledger_workers (worker_id, pid, what) VALUES (OLD.worker_id, OLD.pid, 'gone');
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION ledger_note_progress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_progress (user_address, old_owner, new_owner, owner_lives, rows_counted) VALUES (
        NEW.user_address, OLD.claimed_by, NEW.claimed_by,
        EXISTS (SELECT FROM backfill_workers WHERE worker_id = coalesce(NEW.claimed_by, OLD.claimed_by)),
        NEW.fills_count - OLD.fills_count
    );
    RETURN NULL;
END $$;
CREATE FUNCTION ledger_note_fills() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_fills (user_address, rows) SELECT user_address, count(*) FROM added GROUP BY user_address;
    RETURN NULL;
END $$;
"""

# A statement's trigger with a transition table: the kind that a hypertable has, too.
_TRIGGERS = """
CREATE TRIGGER ledger AFTER INSERT OR DELETE ON backfill_workers FOR EACH ROW EXECUTE FUNCTION ledger_note_worker();
CREATE TRIGGER ledger AFTER UPDATE ON backfill_progress FOR EACH ROW EXECUTE FUNCTION ledger_note_progress();
CREATE TRIGGER ledger AFTER INSERT ON fills REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_note_fills();
"""

RULES = {
    "a user goes from worker to worker only by being free in between": """
        SELECT * FROM ledger_progress WHERE old_owner <> new_owner""",
    "what a user's row says of its owner is what the entry before left there": """
        SELECT * FROM (
            SELECT *, lag(new_owner) OVER (PARTITION BY user_address ORDER BY entry) AS left_there FROM ledger_progress
        ) AS entries WHERE old_owner IS DISTINCT FROM left_there""",
    "only a living worker claims, and for itself": """
        SELECT * FROM ledger_progress
        WHERE old_owner IS NULL AND new_owner IS NOT NULL
            AND (NOT owner_lives OR session <> 'vigil-backfill ' || new_owner)""",
    "nobody takes a user from a living worker": """
        SELECT * FROM ledger_progress
        WHERE new_owner IS NULL AND owner_lives AND session <> 'vigil-backfill ' || old_owner""",
    "rows are written by the worker that holds their user, in the transaction that moves it on": """
        SELECT * FROM ledger_fills AS f WHERE NOT EXISTS (
            SELECT FROM ledger_progress AS p
            WHERE p.transaction = f.transaction AND p.user_address = f.user_address
                AND f.session = 'vigil-backfill ' || p.old_owner
        )""",
    "a transaction counts for each user the rows it inserts": """
        SELECT * FROM (
            SELECT transaction, user_address, sum(rows) AS inserted FROM ledger_fills GROUP BY 1, 2
        ) AS f
        FULL JOIN (
            SELECT transaction, user_address, sum(rows_counted) AS counted FROM ledger_progress GROUP BY 1, 2
        ) AS p USING (transaction, user_address)
        WHERE coalesce(inserted, 0) <> coalesce(counted, 0)""",
    "a row inserted stays, and no row is there that was not inserted": """
        SELECT * FROM (SELECT user_address, sum(rows) AS inserted FROM ledger_fills GROUP BY 1) AS f
        FULL JOIN (SELECT user_address, count(*) AS present FROM fills GROUP BY 1) AS t USING (user_address)
        WHERE inserted IS DISTINCT FROM present""",
}


@dataclass(frozen=True)
class Life:
    """One worker, as the ledger saw it: `claims` it made, `orphans` it left to others."""

    pid: int
    claims: int
    orphans: int


async def open_ledger(url: str) -> None:
    """Begin to keep the ledger; the schema must be there, and nobody at work yet."""
    connection = await asyncpg.connect(url)
    try:
        for statements in (_TABLES, _FUNCTIONS, _TRIGGERS):
            await connection.execute(statements)
    finally:
        await connection.close()


async def broken_rules(url: str) -> dict[str, list[str]]:
    """Rule to the first few entries that break it; empty when all is well."""
    connection = await asyncpg.connect(url)
    try:
        found = {rule: await connection.fetch(f"{query} LIMIT 3") for rule, query in RULES.items()}
    finally:
        await connection.close()
    return {rule: [str(dict(entry)) for entry in entries] for rule, entries in found.items() if entries}


async def lives(url: str) -> list[Life]:
    """Every process that became a worker, in the order of their births."""
    connection = await asyncpg.connect(url)
    try:
        records = await connection.fetch(
            "SELECT w.pid, count(*) FILTER (WHERE new_owner = worker_id AND old_owner IS NULL) AS claims,"
            " count(*) FILTER (WHERE old_owner = worker_id AND session <> 'vigil-backfill ' || worker_id"
            " AND new_owner IS NULL) AS orphans"
            " FROM ledger_workers AS w LEFT JOIN ledger_progress ON worker_id IN (old_owner, new_owner)"
            " WHERE what = 'born' GROUP BY w.worker_id, w.pid, w.at ORDER BY w.at"
        )
    finally:
        await connection.close()
    return [Life(**record) for record in records]
