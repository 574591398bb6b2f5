-- How far each user's history has been read, by whom, and what is known to be missing.

-- A user's state, derived from the columns below and from nothing else:
--   pending    known, not claimed                       -> claimed
--   claimed    a live worker is reading it              -> completed | failed | pending (released, or the worker died)
--   completed  [window_start_ms, window_end_ms) is read -> pending (a run asks for a wider window)
--   failed     the exchange would not answer for it     -> pending (the next run tries again)
CREATE TYPE backfill_state AS ENUM ('pending', 'claimed', 'completed', 'failed');

-- The original plan's table of that name may be here already: its rows are taken over below.
DO $$
BEGIN
    IF to_regclass('backfill_progress') IS NOT NULL THEN
        ALTER TABLE backfill_progress RENAME TO backfill_progress_of_the_plan;
        ALTER INDEX IF EXISTS backfill_progress_pkey RENAME TO backfill_progress_of_the_plan_pkey;
        DROP INDEX IF EXISTS idx_backfill_completed;
    END IF;
END
$$;

-- One row a user. [window_start_ms, cursor_ms) has been read and committed, window_end_ms is the goal.
CREATE TABLE backfill_progress (
    user_address     text COLLATE "C" PRIMARY KEY,
    started_at       timestamptz,
    completed_at     timestamptz,
    completed        boolean NOT NULL DEFAULT false,
    fills_count      bigint NOT NULL DEFAULT 0,  -- rows of fills that the backfill added for this user
    oldest_fill_time bigint,                     -- ms since epoch, of the fills read
    newest_fill_time bigint,                     -- the same: a walk goes on from here, so that it meets what it holds
    window_start_ms  bigint,
    window_end_ms    bigint,                     -- exclusive
    cursor_ms        bigint,
    attempts         integer NOT NULL DEFAULT 0, -- failed tries; an interruption is none
    failed_at        timestamptz,
    last_error       text,
    claimed_by       bigint,                     -- backfill_workers.worker_id
    claimed_at       timestamptz,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    state            backfill_state NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN completed THEN 'completed'::backfill_state
            WHEN failed_at IS NOT NULL THEN 'failed'::backfill_state
            WHEN claimed_by IS NOT NULL THEN 'claimed'::backfill_state
            ELSE 'pending'::backfill_state
        END
    ) STORED,
    -- Which worker of N a user belongs to: shard % N. vigil/address.py computes the same number.
    shard            bigint NOT NULL GENERATED ALWAYS AS (
        (get_byte(sha256(decode(substr(user_address, 3), 'hex')), 0)::bigint << 24)
        | (get_byte(sha256(decode(substr(user_address, 3), 'hex')), 1)::bigint << 16)
        | (get_byte(sha256(decode(substr(user_address, 3), 'hex')), 2)::bigint << 8)
        | get_byte(sha256(decode(substr(user_address, 3), 'hex')), 3)::bigint
    ) STORED,
    CONSTRAINT user_address_is_lower_case_hex CHECK (user_address ~ '^0x[0-9a-f]{40}$'),
    CONSTRAINT completed_or_claimed_or_failed CHECK (
        (completed::int + (failed_at IS NOT NULL)::int + (claimed_by IS NOT NULL)::int) <= 1
    )
);

COMMENT ON TABLE backfill_progress IS 'One row a user: what of its history has been read; written by vigil-backfill';

-- The next user to claim is the first entry.
CREATE INDEX backfill_progress_pending ON backfill_progress (user_address) WHERE state = 'pending';

-- A dead worker's users are found without a scan.
CREATE INDEX backfill_progress_claimed ON backfill_progress (claimed_by) WHERE claimed_by IS NOT NULL;

-- The plan's index: what is done and what is not.
CREATE INDEX idx_backfill_completed ON backfill_progress (completed);

-- A worker is one process. It lives while it renews its lease and holds the advisory lock of its id.
CREATE TABLE backfill_workers (
    worker_id        bigint PRIMARY KEY,
    host             text NOT NULL,
    pid              integer NOT NULL,
    started_at       timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz NOT NULL,
    suspect_since    timestamptz,                -- when its session was first found gone, until its next sign of life
    committed_batch  bigint NOT NULL DEFAULT 0  -- its newest batch: tells whether a COMMIT whose answer was lost took effect
);

-- Spans in which fills of a user may be missing, both ends inclusive, ms since epoch.
CREATE TABLE backfill_gaps (
    user_address text COLLATE "C" NOT NULL,
    from_ms      bigint NOT NULL,
    to_ms        bigint NOT NULL,
    kind         text NOT NULL,  -- vigil/cursor.py, GapKind
    found_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_address, from_ms, to_ms, kind)
);

DO $$
BEGIN
    IF to_regclass('backfill_progress_of_the_plan') IS NOT NULL THEN
        INSERT INTO backfill_progress (user_address, started_at, completed_at, completed, fills_count, oldest_fill_time)
        SELECT lower(user_address), started_at, completed_at, coalesce(completed, false), coalesce(fills_count, 0),
            oldest_fill_time
        FROM backfill_progress_of_the_plan
        WHERE lower(user_address) ~ '^0x[0-9a-f]{40}$'
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;
