-- The user whose history is being lost fastest, if there is one: nobody's, of the shards [$3, $4), with something to
-- read in [$1, $2) from source $5.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND urgency > 0 AND shard >= $3 AND shard < $4
    AND (until_ms IS NULL OR source = $5)
    AND backfill_unread(cursor_ms, window_start_ms, slices_wanted, slices_cursor_ms, $1, $2)
ORDER BY urgency DESC, user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
