-- The same among the users $1, at most $2.
SELECT user_address FROM backfill_progress
WHERE user_address = ANY ($1::text[]) AND state = 'completed' AND judged_at IS NULL AND window_end_ms IS NOT NULL
LIMIT $2
FOR UPDATE SKIP LOCKED;
