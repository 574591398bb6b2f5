-- The most urgent one among the users $3 that is nobody's and has something to read in [$1, $2) from source $4.
SELECT user_address FROM backfill_progress
WHERE state = 'pending' AND user_address = ANY ($3::text[])
    AND (until_ms IS NULL OR source = $4)
    AND backfill_unread(cursor_ms, window_start_ms, slices_wanted, slices_cursor_ms, $1, $2)
ORDER BY urgency DESC, user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
