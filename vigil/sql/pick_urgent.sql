-- The user whose history is being lost fastest, if there is one: nobody's, of the shards [$3, $4), with something to
-- read in [$1, $2) from source $5; $6: it serves TWAP slices too.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND urgency > 0 AND shard >= $3 AND shard < $4
    AND CASE
        WHEN until_ms IS NOT NULL THEN source = $5 AND (cursor_ms < until_ms OR $6)
        ELSE backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $6, slices_cursor_ms, $1, $2)
    END
ORDER BY urgency DESC, user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
