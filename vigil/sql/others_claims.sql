-- Whether users of share $3 of $2 (among $4, NULL: all) are in other hands than worker $1's, or to be read
-- in [$5, $6) but locked by somebody for the moment.
SELECT EXISTS (
    SELECT FROM backfill_progress
    WHERE shard % $2 = $3 AND ($4::text[] IS NULL OR user_address = ANY ($4))
        AND (
            claimed_by <> $1
            OR state = 'pending' AND (cursor_ms IS NULL OR cursor_ms < $6 OR window_start_ms > $5)
        )
);
