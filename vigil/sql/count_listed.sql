-- The same among the users $3; $4 source, $5 whether it serves TWAP slices.
SELECT count(*) FROM backfill_progress
WHERE state = 'pending' AND user_address = ANY ($3::text[])
    AND CASE
        WHEN until_ms IS NOT NULL THEN source = $4 AND (cursor_ms < until_ms OR $5)
        ELSE backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $5, slices_cursor_ms, $1, $2)
    END;
