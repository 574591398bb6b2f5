-- Many workers, many users: shares of an address's budget, counters of what went wrong, claims that stay cheap.

-- Workers behind one address (a lane) share what the exchange allows it. A worker's claim on the lane is
-- greatest(share_weight, used_weight): it will never have spent more than that within one period.
ALTER TABLE backfill_workers
    ADD COLUMN lane           text NOT NULL DEFAULT '',
    ADD COLUMN hungry         boolean NOT NULL DEFAULT false,   -- has asked for weight since its last report
    ADD COLUMN share_weight   integer NOT NULL DEFAULT 0,       -- weight it may spend in a period from now on
    ADD COLUMN used_weight    integer NOT NULL DEFAULT 0,       -- spent within the last period, requests in flight at their worst
    ADD COLUMN period         interval NOT NULL DEFAULT '60 s', -- the exchange's minute, as this worker sees it
    ADD COLUMN spent_weight   integer[] NOT NULL DEFAULT '{}',  -- what of used_weight is settled ...
    ADD COLUMN spent_until    timestamptz[] NOT NULL DEFAULT '{}'; -- ... and when each part leaves the period

-- What workers that are no more have left of their lane's current period: a restart remembers it.
CREATE TABLE backfill_spent_weight (
    lane       text NOT NULL,
    weight     integer NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX backfill_spent_weight_lane ON backfill_spent_weight (lane, expires_at);

-- One worker of a lane after the other tells what it has spent and takes its share: `wanted`, as far as the claims of
-- the others, what the departed left and one `overshoot` for each other that has a share permit it, and never less than
-- the `held` it has already. One statement, so that a client that falls asleep can't keep the lane locked; and its own
-- row first, which its other session may be holding in the middle of a commit. NULL: this worker was taken over.
CREATE FUNCTION backfill_take_share(
    me bigint, wanted integer, held integer, allowed integer, overshoot integer, wants_more boolean, used integer,
    minute interval, weights integer[], seconds_left double precision[]
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    my_lane text;
    granted integer;
BEGIN
    SELECT lane INTO my_lane FROM backfill_workers WHERE worker_id = me FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(1447643468, hashtext(my_lane));
    SELECT greatest(held, least(wanted, allowed - overshoot * others.spenders - others.weight - departed.weight))
    INTO granted
    FROM
        (
            SELECT
                coalesce(sum(greatest(share_weight, used_weight)), 0) AS weight,
                count(*) FILTER (WHERE share_weight > 0) AS spenders
            FROM backfill_workers WHERE lane = my_lane AND worker_id <> me
        ) AS others,
        (
            SELECT coalesce(sum(weight), 0) AS weight
            FROM backfill_spent_weight WHERE lane = my_lane AND expires_at > clock_timestamp()
        ) AS departed;
    UPDATE backfill_workers SET
        hungry = wants_more,
        share_weight = granted,
        used_weight = used,
        period = minute,
        spent_weight = weights,
        spent_until = (
            SELECT coalesce(array_agg(clock_timestamp() + kept * interval '1 second' ORDER BY place), '{}')
            FROM unnest(seconds_left) WITH ORDINALITY AS told (kept, place)
        )
    WHERE worker_id = me;
    RETURN granted;
END
$$;

-- What the exchange did wrong, by kind (vigil/errors.py, Fault), counted by each worker for itself.
CREATE TABLE backfill_faults (
    kind      text NOT NULL,
    worker_id bigint NOT NULL,
    count     bigint NOT NULL,
    newest_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, worker_id)
);

-- Users are claimed in the order of `shard`, so that any share of them is one range of this index.
DROP INDEX backfill_progress_pending;
CREATE INDEX backfill_progress_pending ON backfill_progress (shard, user_address) WHERE state = 'pending';

-- Each claim leaves a dead entry at the front of that index: few enough for the next run's first claim to step over.
ALTER TABLE backfill_progress SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100000);

-- Users that a run must open again are found without a scan: failed ones, and those read for a narrower window.
CREATE INDEX backfill_progress_failed ON backfill_progress (failed_at) WHERE state = 'failed';
CREATE INDEX backfill_progress_read_from ON backfill_progress (window_start_ms) WHERE state = 'completed';
CREATE INDEX backfill_progress_read_to ON backfill_progress (cursor_ms) WHERE state = 'completed';
