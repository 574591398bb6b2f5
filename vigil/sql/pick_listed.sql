-- The most urgent one among the users $3 that is nobody's and has something to read in [$1, $2) from source $4 ($5: it
-- serves TWAP slices too). One that a source is to be asked for (until_ms) is that source's alone.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND user_address = ANY ($3::text[])
    AND CASE
        WHEN until_ms IS NOT NULL THEN source = $4 AND (cursor_ms < until_ms OR $5)
        ELSE backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $5, slices_cursor_ms, $1, $2)
    END
ORDER BY urgency DESC, user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
