-- The same among the users $3.
SELECT count(*) FROM backfill_progress
WHERE state = 'pending' AND user_address = ANY ($3::text[])
    AND backfill_unread(cursor_ms, window_start_ms, slices_wanted, slices_cursor_ms, $1, $2);
