-- What `status` answers from, at any size: how the run went, minute by minute, and counters in place of counts.

-- How each worker's lanes were used, one row a worker's lane and minute, told by the workers (vigil/samples.py); those
-- older than two days are summed up to one an hour. What can't be told by lane is on the row of the worker's first one.
CREATE TABLE backfill_samples (
    at             timestamptz NOT NULL,         -- the end of the span
    worker_id      bigint NOT NULL,              -- the process: its first lane's backfill_workers.worker_id
    host           text NOT NULL,
    lane           text NOT NULL,
    seconds        real NOT NULL,                -- the span's length
    allowed_weight bigint NOT NULL DEFAULT 0,    -- what the lane's share permitted within it
    spent_weight   bigint NOT NULL DEFAULT 0,    -- what was spent
    requests       bigint NOT NULL DEFAULT 0,    -- from here on of the whole process, on its first lane's row
    pauses         bigint NOT NULL DEFAULT 0,    -- 429s
    inserted       bigint NOT NULL DEFAULT 0,    -- rows committed that are new
    received       bigint NOT NULL DEFAULT 0,    -- rows committed
    users_done     bigint NOT NULL DEFAULT 0,
    users_failed   bigint NOT NULL DEFAULT 0,
    faults         jsonb NOT NULL DEFAULT '{}',  -- the exchange's faults by kind (vigil/errors.py, Fault): kind -> count
    PRIMARY KEY (worker_id, lane, at)
);

-- The newest minutes, whoever's they are.
CREATE INDEX backfill_samples_at ON backfill_samples (at);

-- Samples older than two days become one an hour of a worker's lane. One worker does it at a time, the others pass by.
CREATE FUNCTION backfill_thin_samples() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(1447643475, 0) THEN
        RETURN;
    END IF;
    WITH hours AS (
        SELECT worker_id, lane, date_trunc('hour', at, 'UTC') AS hour
        FROM backfill_samples
        WHERE at < date_trunc('hour', now(), 'UTC') - interval '2 days'
        GROUP BY 1, 2, 3
        HAVING count(*) > 1
    ),
    minutes AS (
        DELETE FROM backfill_samples AS s USING hours AS h
        WHERE s.worker_id = h.worker_id AND s.lane = h.lane AND s.at >= h.hour AND s.at < h.hour + interval '1 hour'
        RETURNING s.*, h.hour
    ),
    faults AS (
        SELECT worker_id, lane, hour, jsonb_object_agg(kind, count) AS faults
        FROM (
            SELECT worker_id, lane, hour, kind, sum(count::bigint) AS count
            FROM minutes CROSS JOIN LATERAL jsonb_each_text(minutes.faults) AS told (kind, count)
            GROUP BY worker_id, lane, hour, kind
        ) AS kinds
        GROUP BY worker_id, lane, hour
    )
    INSERT INTO backfill_samples (
        at, worker_id, host, lane, seconds, allowed_weight, spent_weight, requests, pauses, inserted, received,
        users_done, users_failed, faults
    )
    SELECT
        max(m.at), m.worker_id, max(m.host), m.lane, sum(m.seconds), sum(m.allowed_weight), sum(m.spent_weight),
        sum(m.requests), sum(m.pauses), sum(m.inserted), sum(m.received), sum(m.users_done), sum(m.users_failed),
        coalesce(max(f.faults::text)::jsonb, '{}')
    FROM minutes AS m LEFT JOIN faults AS f USING (worker_id, lane, hour)
    GROUP BY m.worker_id, m.lane, m.hour;
END
$$;

-- Which workers live: a valid lease, and a session that holds the worker's lock. One row a worker's lane.
ALTER TABLE backfill_workers ADD COLUMN heard_at timestamptz NOT NULL DEFAULT now(); -- when it last renewed its lease

CREATE VIEW backfill_workers_now AS
SELECT w.*, w.lease_expires_at >= now() AND held.worker_id IS NOT NULL AS alive
FROM backfill_workers AS w
LEFT JOIN (
    SELECT DISTINCT classid::bigint << 32 | objid::bigint AS worker_id
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS held USING (worker_id);

CREATE OR REPLACE FUNCTION backfill_workers_alive() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM backfill_workers_now WHERE alive
$$;

-- The counters. Counting ten million users takes seconds, so whoever changes them also says by how much: a trigger adds a
-- row for each group of users that a statement has changed, in the statement's own transaction, and the sum of all rows
-- is the count. Rows are only ever added, so that nobody waits for anybody. Now and then those that are there are folded
-- into one for each group; readers see them either before or after. What changes the tables without triggers (a
-- data-only restore, session_replication_role) calls for backfill_recount().
CREATE TABLE backfill_counts (
    what              text NOT NULL,              -- of which table: users (backfill_progress), gaps, rejected_fills
    state             backfill_state,             -- the groups of users: by state,
    verdict           backfill_verdict,           -- verdict, of those that are judged,
    unjudged          boolean,                    -- whether they await one,
    urgent            boolean,                    -- whether their history is being lost,
    fresh             boolean,                    -- whether nothing was read of them, nor another source is to be asked,
    attempts          integer,                    -- and failed tries, of those that are failed
    users             bigint NOT NULL DEFAULT 0,  -- with gaps, of gaps
    rows              bigint NOT NULL DEFAULT 0,  -- users: fills that the backfill added
    notional          numeric NOT NULL DEFAULT 0,
    users_with_volume bigint NOT NULL DEFAULT 0,  -- those whose lifetime volume is known, their notional, and it
    volume_notional   numeric NOT NULL DEFAULT 0,
    volume            numeric NOT NULL DEFAULT 0,
    users_read        bigint NOT NULL DEFAULT 0,  -- read to their end from some source; what they weighed, and its square
    weight            numeric NOT NULL DEFAULT 0,
    weight_squares    numeric NOT NULL DEFAULT 0,
    users_losing      bigint NOT NULL DEFAULT 0,  -- vigil.urgency.Estimate: those with rows out of reach, lost_per_hour,
    lost_per_hour     numeric NOT NULL DEFAULT 0, -- at_stake; rounded, or they would not add up to nothing in the end
    fills_at_stake    numeric NOT NULL DEFAULT 0
);

-- Rows come and go here all the time.
ALTER TABLE backfill_counts SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- How many gaps each user has: a second one makes no second user with gaps.
CREATE TABLE backfill_gap_users (
    user_address text COLLATE "C" PRIMARY KEY,
    gaps         bigint NOT NULL
);

-- The counters, a row a group.
CREATE VIEW backfill_counted AS
SELECT
    what, state, verdict, unjudged, urgent, fresh, attempts, sum(users)::bigint AS users, sum(rows)::bigint AS rows,
    sum(notional) AS notional, sum(users_with_volume)::bigint AS users_with_volume,
    sum(volume_notional) AS volume_notional, sum(volume) AS volume, sum(users_read)::bigint AS users_read,
    sum(weight) AS weight, sum(weight_squares) AS weight_squares, sum(users_losing)::bigint AS users_losing,
    sum(lost_per_hour) AS lost_per_hour, sum(fills_at_stake) AS fills_at_stake
FROM backfill_counts
GROUP BY what, state, verdict, unjudged, urgent, fresh, attempts;

-- What reading so many rows of a user to the end costs: base and rows of each page (vigil.forecast.rows_weight). The
-- prices are the exchange's, if no others are told.
CREATE FUNCTION backfill_weight(
    rows bigint, base bigint DEFAULT 20, rows_per_weight bigint DEFAULT 20, page_rows bigint DEFAULT 2000
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT $2 * (1 + greatest($1 - 1, 0) / ($4 - 1)) + ($1 + greatest($1 - 1, 0) / ($4 - 1) + $3 - 1) / $3
$$;

-- Folds the rows that are there. Never in a transaction that could not see that another has done so meanwhile.
CREATE FUNCTION backfill_fold_counts() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR NOT pg_try_advisory_xact_lock(1447643474, 0) THEN
        RETURN;
    END IF;
    WITH folded AS (
        DELETE FROM backfill_counts RETURNING *
    )
    INSERT INTO backfill_counts
    SELECT
        what, state, verdict, unjudged, urgent, fresh, attempts, sum(users), sum(rows), sum(notional), sum(users_with_volume),
        sum(volume_notional), sum(volume), sum(users_read), sum(weight), sum(weight_squares), sum(users_losing),
        sum(lost_per_hour), sum(fills_at_stake)
    FROM folded
    GROUP BY what, state, verdict, unjudged, urgent, fresh, attempts;
END
$$;

-- The triggers run as who owns them: whoever may change the tables need not know of the counters.
-- The trigger of the users, and the recount: both add up the same columns, of what a statement has added or removed, or
-- of all there is.
DO $do$
DECLARE
    sums CONSTANT text := $sql$
        INSERT INTO backfill_counts
        SELECT * FROM (
            SELECT
                'users', state, judged, unjudged, urgent, fresh, tries, sum(sign) AS users,
                sum(sign * fills_count) AS rows,
                coalesce(sum(sign * notional), 0) AS notional,
                coalesce(sum(sign) FILTER (WHERE lifetime_volume > 0 AND lifetime_volume < 1e300), 0) AS users_with_volume,
                coalesce(sum(sign * notional) FILTER (WHERE lifetime_volume > 0 AND lifetime_volume < 1e300), 0) AS volume_notional,
                coalesce(sum(sign * lifetime_volume) FILTER (WHERE lifetime_volume > 0 AND lifetime_volume < 1e300), 0) AS volume,
                coalesce(sum(sign) FILTER (WHERE weighs IS NOT NULL), 0) AS users_read,
                coalesce(sum(sign * weighs), 0) AS weight,
                coalesce(sum(sign * weighs::numeric * weighs), 0) AS weight_squares,
                coalesce(sum(sign) FILTER (WHERE behind IS NOT NULL), 0) AS users_losing,
                coalesce(sum(sign * round(
                    (least(fills_per_hour::float8, 10000 - behind) * behind / 10000)::numeric, 6  -- of REACH_ROWS
                )), 0) AS lost_per_hour,
                coalesce(sum(sign * round((behind * ln(10000::float8 / behind))::numeric, 6)), 0) AS fills_at_stake
            FROM (
                SELECT
                    *,
                    CASE WHEN judged_at IS NOT NULL THEN verdict END AS judged,
                    state = 'completed' AND judged_at IS NULL AND window_end_ms IS NOT NULL AS unjudged,
                    urgency > 0 AS urgent,
                    cursor_ms IS NULL AND until_ms IS NULL AS fresh,
                    CASE WHEN state = 'failed' THEN least(attempts, 1000) END AS tries,
                    CASE WHEN state = 'completed' AND window_end_ms IS NOT NULL AND cardinality(sources) > 0
                        THEN backfill_weight(fills_count) + CASE WHEN slices_wanted THEN 20 ELSE 0 END
                    END AS weighs,
                    CASE WHEN urgency > 0 AND state <> 'completed' AND rows_after_window > 0
                            AND rows_after_window < 10000
                        THEN rows_after_window
                    END AS behind
                FROM {source} AS source
            ) AS told
            GROUP BY state, judged, unjudged, urgent, fresh, tries
        ) AS d
        WHERE (
            d.users, d.rows, d.notional, d.users_with_volume, d.volume_notional, d.volume, d.users_read, d.weight,
            d.weight_squares, d.users_losing, d.lost_per_hour, d.fills_at_stake
        ) <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    $sql$;
    trigger_body CONSTANT text := $body$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                {inserted};
            ELSIF TG_OP = 'DELETE' THEN
                {deleted};
            ELSE
                {updated};
            END IF;
            IF random() < 0.002 THEN
                PERFORM backfill_fold_counts();
            END IF;
            RETURN NULL;
        END
    $body$;
    recount_body CONSTANT text := $body$
        BEGIN
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE 'the counters can''t be made anew in a transaction that does not see what others commit'
                    USING HINT = 'Do it, or the TRUNCATE, in READ COMMITTED.';
            END IF;
            PERFORM pg_advisory_xact_lock(1447643474, 0);  -- nobody folds what is taken away here
            IF counted = 'gaps' THEN
                LOCK TABLE backfill_gaps IN SHARE MODE;
                DELETE FROM backfill_gap_users;
                INSERT INTO backfill_gap_users SELECT user_address, count(*) FROM backfill_gaps GROUP BY user_address;
            END IF;
            -- One statement, one snapshot: what others commit meanwhile is in neither, and adds itself.
            WITH taken_away AS (
                DELETE FROM backfill_counts WHERE what = counted
            ),
            others AS (
                INSERT INTO backfill_counts (what, users, rows)
                SELECT counted, count(*), coalesce(sum(gaps), 0)
                FROM backfill_gap_users WHERE counted = 'gaps' AND gaps > 0
                HAVING count(*) > 0
                UNION ALL
                SELECT counted, 0, count(*) FROM rejected_fills WHERE counted = 'rejected_fills' HAVING count(*) > 0
            )
            {all};
            PERFORM backfill_fold_counts();
        END
    $body$;
BEGIN
    EXECUTE format(
        'CREATE FUNCTION backfill_count_users() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
        ' SET search_path FROM CURRENT AS %L',
        replace(replace(replace(
            trigger_body,
            '{inserted}', replace(sums, '{source}', '(SELECT 1 AS sign, * FROM added)')),
            '{deleted}', replace(sums, '{source}', '(SELECT -1 AS sign, * FROM removed)')),
            '{updated}', replace(
                sums, '{source}', '(SELECT 1 AS sign, * FROM added UNION ALL SELECT -1, * FROM removed)'
            )
        )
    );
    EXECUTE format(
        'CREATE FUNCTION backfill_recount(counted text) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS %L',
        replace(
            recount_body, '{all}',
            replace(sums, '{source}', $$(SELECT 1 AS sign, * FROM backfill_progress WHERE counted = 'users')$$)
        )
    );
END
$do$;

CREATE FUNCTION backfill_count_rejected() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO backfill_counts (what, rows) SELECT 'rejected_fills', count(*) FROM added HAVING count(*) > 0;
    ELSE
        INSERT INTO backfill_counts (what, rows) SELECT 'rejected_fills', -count(*) FROM removed HAVING count(*) > 0;
    END IF;
    RETURN NULL;
END
$$;

-- Gaps of one user that are written side by side wait for one another here: else both could take theirs for its first.
CREATE FUNCTION backfill_count_gaps() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        WITH told AS (
            SELECT user_address, count(*) AS gaps FROM removed GROUP BY user_address
        ),
        kept AS (
            UPDATE backfill_gap_users AS u SET gaps = u.gaps - told.gaps
            FROM told WHERE u.user_address = told.user_address
            RETURNING u.gaps, told.gaps AS fewer
        )
        INSERT INTO backfill_counts (what, users, rows)
        SELECT 'gaps', -count(*) FILTER (WHERE gaps = 0), -sum(fewer) FROM kept HAVING count(*) > 0;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        WITH told AS (
            SELECT user_address, count(*) AS gaps FROM added GROUP BY user_address
        ),
        kept AS (
            INSERT INTO backfill_gap_users AS u (user_address, gaps)
            SELECT user_address, gaps FROM told ORDER BY user_address
            ON CONFLICT (user_address) DO UPDATE SET gaps = u.gaps + excluded.gaps
            RETURNING u.user_address, u.gaps
        )
        INSERT INTO backfill_counts (what, users, rows)
        SELECT 'gaps', count(*) FILTER (WHERE kept.gaps = told.gaps), sum(told.gaps)
        FROM kept JOIN told USING (user_address)
        HAVING count(*) > 0;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION backfill_count_emptied() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM backfill_recount(TG_ARGV[0]);
    RETURN NULL;
END
$$;

CREATE TRIGGER backfill_count_inserted AFTER INSERT ON backfill_progress
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_users();
CREATE TRIGGER backfill_count_updated AFTER UPDATE ON backfill_progress
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_users();
CREATE TRIGGER backfill_count_deleted AFTER DELETE ON backfill_progress
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_users();
CREATE TRIGGER backfill_count_emptied AFTER TRUNCATE ON backfill_progress
    FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_emptied('users');

CREATE TRIGGER backfill_count_inserted AFTER INSERT ON rejected_fills
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_rejected();
CREATE TRIGGER backfill_count_deleted AFTER DELETE ON rejected_fills
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_rejected();
CREATE TRIGGER backfill_count_emptied AFTER TRUNCATE ON rejected_fills
    FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_emptied('rejected_fills');

CREATE TRIGGER backfill_count_inserted AFTER INSERT ON backfill_gaps
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_gaps();
CREATE TRIGGER backfill_count_updated AFTER UPDATE ON backfill_gaps
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_gaps();
CREATE TRIGGER backfill_count_deleted AFTER DELETE ON backfill_gaps
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_gaps();
CREATE TRIGGER backfill_count_emptied AFTER TRUNCATE ON backfill_gaps
    FOR EACH STATEMENT EXECUTE FUNCTION backfill_count_emptied('gaps');

-- The triggers hold off whoever writes until this transaction ends, so nothing is missed in between.
SELECT backfill_recount('users'), backfill_recount('gaps'), backfill_recount('rejected_fills');

-- Of a run that takes users of all shards, `fresh` ones need no look at their rows (sql/count_pending.sql); the others:
CREATE INDEX backfill_progress_resumed ON backfill_progress (shard)
    WHERE state = 'pending' AND (cursor_ms IS NOT NULL OR until_ms IS NOT NULL);

-- A run tries failed users again, and need not look at those that are parked.
CREATE INDEX backfill_progress_tries ON backfill_progress (attempts, shard) INCLUDE (user_address)
    WHERE state = 'failed';

-- The oldest fill of all is the first entry.
CREATE INDEX backfill_progress_oldest ON backfill_progress (oldest_fill_time) WHERE oldest_fill_time IS NOT NULL;
