-- Whether users of share $3 of $2 (among $4, NULL: all) are in other hands than worker $1's, or still to be read
-- in [$5, $6): locked by somebody for the moment, or just completed by another run for a narrower window.
SELECT EXISTS (
    SELECT FROM backfill_progress
    WHERE shard % $2 = $3 AND ($4::text[] IS NULL OR user_address = ANY ($4))
        AND (
            claimed_by <> $1
            OR (state = 'pending' AND cursor_ms IS NULL)
            OR (state IN ('pending', 'completed') AND (cursor_ms < $6 OR window_start_ms > $5))
        )
);
