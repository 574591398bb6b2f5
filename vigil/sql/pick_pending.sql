-- The next user that is nobody's and has something to read in [$1, $2), of share $4 of $3.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND shard % $3 = $4
    AND (cursor_ms IS NULL OR cursor_ms < $2 OR window_start_ms > $1)
ORDER BY user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
