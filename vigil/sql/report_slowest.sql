-- The users that took longest from their first claim to their end, pauses and stops between included.
SELECT
    user_address AS user, fills_count AS fills, started_at, completed_at,
    extract(epoch FROM completed_at - started_at)::double precision AS seconds,
    CASE WHEN judged_at IS NOT NULL THEN verdict::text END AS verdict
FROM backfill_progress
WHERE state = 'completed' AND completed_at > started_at
ORDER BY completed_at - started_at DESC, user_address
LIMIT 10;
