-- The same among the users $3, in any order.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND user_address = ANY ($3::text[])
    AND (cursor_ms IS NULL OR cursor_ms < $2 OR window_start_ms > $1)
ORDER BY user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
