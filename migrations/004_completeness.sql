-- What is proven of each user's history, and what is still to be asked for it.

-- The words of vigil/verdict.py, which decides between them.
CREATE TYPE backfill_verdict AS ENUM ('complete', 'truncated', 'gap', 'empty', 'unverified');

ALTER TABLE backfill_progress
    -- What TWAP orders executed is a second list of the exchange (vigil/fills.py, Stream), read when wanted:
    -- [window_start_ms, slices_cursor_ms) of it has been read and committed.
    ADD COLUMN slices_wanted    boolean NOT NULL DEFAULT false,
    ADD COLUMN slices_cursor_ms bigint,
    -- Where the fills come from. A further source that is asked for what this one no longer has reads
    -- [window_start_ms, until_ms) and no more; until it has, nobody else goes on with the user.
    ADD COLUMN source           text NOT NULL DEFAULT 'hyperliquid',
    ADD COLUMN until_ms         bigint,
    ADD COLUMN sources          text[] NOT NULL DEFAULT '{}',   -- those that have been read to the end
    ADD COLUMN uncapped         boolean NOT NULL DEFAULT false, -- one of those keeps every fill there was
    -- The verdict; NULL: not judged since the last row was added.
    ADD COLUMN verdict          backfill_verdict,
    ADD COLUMN verdict_causes   text[],
    ADD COLUMN verdict_why      text,
    ADD COLUMN judged_at        timestamptz,
    ADD COLUMN notional         numeric,                        -- price times size of all rows known
    ADD COLUMN lifetime_volume  numeric,                        -- as the exchange reports it; its meaning is unproven
    -- How fast this user's history is being lost, as far as rows after the window tell.
    ADD COLUMN rows_after_window bigint,
    ADD COLUMN fills_per_hour   real,
    ADD COLUMN urgency          real NOT NULL DEFAULT 0;        -- the next user to claim is the most urgent one

-- Completed users that await their verdict.
CREATE INDEX backfill_progress_unjudged ON backfill_progress (shard, user_address)
    WHERE state = 'completed' AND judged_at IS NULL AND window_end_ms IS NOT NULL;

-- Users of one verdict, and how many of each.
CREATE INDEX backfill_progress_verdict ON backfill_progress (verdict) WHERE verdict IS NOT NULL;

-- Those whose history is being lost go first.
CREATE INDEX backfill_progress_urgent ON backfill_progress (urgency DESC, user_address)
    WHERE state = 'pending' AND urgency > 0;

-- Each coin's verdict and what it rests on: the fields of CoinEvidence.
CREATE TABLE backfill_verdicts (
    user_address text COLLATE "C" NOT NULL,
    coin         text COLLATE "C" NOT NULL,
    verdict      backfill_verdict NOT NULL,
    causes       text[] NOT NULL,
    why          text NOT NULL,
    evidence     jsonb NOT NULL,
    judged_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_address, coin)
);

-- Whether a user has something to read in [from_ms, to_ms): its fills, or the list of TWAP slices.
CREATE FUNCTION backfill_unread(
    cursor_ms bigint, window_start_ms bigint, slices_wanted boolean, slices_cursor_ms bigint, from_ms bigint, to_ms bigint
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT $1 IS NULL OR $1 < $6 OR $2 > $5 OR ($3 AND coalesce($4, $2) < $6)
$$;
