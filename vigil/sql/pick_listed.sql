-- The same among the users $5.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND shard % $3 = $4 AND user_address = ANY ($5::text[])
    AND (cursor_ms IS NULL OR cursor_ms < $2 OR window_start_ms > $1)
ORDER BY user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
