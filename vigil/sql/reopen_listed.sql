-- The same of the users $3.
UPDATE backfill_progress SET completed = false, completed_at = NULL, updated_at = now()
WHERE user_address = ANY ($3::text[]) AND state = 'completed' AND (window_start_ms > $1 OR cursor_ms < $2);
