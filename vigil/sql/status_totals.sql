-- The whole backfill in one row.
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
    (SELECT count(*) FROM backfill_workers WHERE lease_expires_at >= now()) AS workers_alive,
    (SELECT count(*) FROM backfill_workers WHERE lease_expires_at < now()) AS workers_dead,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb
FROM backfill_progress;
