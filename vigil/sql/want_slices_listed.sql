-- The same of the users $1.
UPDATE backfill_progress SET completed = false, completed_at = NULL, slices_wanted = true, updated_at = now()
WHERE user_address = ANY ($1::text[])
    AND state = 'completed' AND window_end_ms IS NOT NULL AND coalesce(slices_cursor_ms, window_start_ms) < window_end_ms;
