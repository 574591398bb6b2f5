-- The same of the users $2: in other hands than worker $1's, still to be read in [$3, $4) from source $5 ($6: it serves
-- TWAP slices too), or unjudged; those left out that wait for another source.
SELECT EXISTS (
    SELECT FROM backfill_progress
    WHERE user_address = ANY ($2::text[])
        AND (until_ms IS NULL OR source = $5)
        AND (
            claimed_by <> $1
            OR (
                state = 'pending' AND (
                    until_ms IS NOT NULL AND (cursor_ms < until_ms OR $6)
                    OR until_ms IS NULL
                    AND backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $6, slices_cursor_ms, $3, $4)
                )
            )
            OR (
                state = 'completed' AND window_end_ms IS NOT NULL
                AND (judged_at IS NULL OR cursor_ms < $4 OR window_start_ms > $3)
            )
        )
);
