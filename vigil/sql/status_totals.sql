-- The whole backfill in one row. A worker is alive with a valid lease and a session that holds its lock; it has a row
-- for each of its lanes.
WITH workers AS (
    SELECT
        host, pid,
        bool_or(lease_expires_at >= now() AND EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 1 AND granted
                AND (classid::bigint << 32 | objid::bigint) = worker_id
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )) AS alive
    FROM backfill_workers
    GROUP BY host, pid
)
SELECT
    count(*) AS users,
    count(*) FILTER (WHERE state = 'completed') AS completed,
    count(*) FILTER (WHERE state = 'claimed') AS claimed,
    count(*) FILTER (WHERE state = 'pending') AS pending,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    coalesce(sum(fills_count), 0)::bigint AS fills,
    min(oldest_fill_time) AS oldest_fill_time,
    (SELECT count(*) FROM rejected_fills) AS rejected_fills,
    (SELECT count(*) FROM backfill_gaps) AS gaps,
    (SELECT count(DISTINCT user_address) FROM backfill_gaps) AS users_with_gaps,
    (SELECT count(*) FROM workers WHERE alive) AS workers_alive,
    (SELECT count(*) FROM workers WHERE NOT alive) AS workers_dead,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb
FROM backfill_progress;
