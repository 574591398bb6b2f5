-- The days [from_ms, to_ms) for which `fills_daily` answers from before the newest rows; NULL: none.
SELECT
    (extract(epoch FROM min(from_time)) * 1000)::bigint AS from_ms,
    (extract(epoch FROM max(until_time)) * 1000)::bigint AS to_ms
FROM backfill_daily_behind()
WHERE stale;
