-- The same of the users $2: in other hands than worker $1's, or still to be read in [$3, $4).
SELECT EXISTS (
    SELECT FROM backfill_progress
    WHERE user_address = ANY ($2::text[])
        AND (
            claimed_by <> $1
            OR (state = 'pending' AND cursor_ms IS NULL)
            OR (state IN ('pending', 'completed') AND (cursor_ms < $4 OR window_start_ms > $3))
        )
);
