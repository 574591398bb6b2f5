-- Users with something to read in [$1, $2), of share $4 of $3, among $5 (NULL: all).
SELECT count(*) FROM backfill_progress
WHERE state = 'pending' AND shard % $3 = $4 AND ($5::text[] IS NULL OR user_address = ANY ($5))
    AND (cursor_ms IS NULL OR cursor_ms < $2 OR window_start_ms > $1);
