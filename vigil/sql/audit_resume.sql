-- Users that a repair had claimed and could not give back: it died, or was stopped. They are completed as before, and
-- judged anew. A claim of a run that moved the window or the cursor is none of these.
UPDATE backfill_progress SET completed = true, cursor_ms = window_end_ms, updated_at = now()
WHERE state = 'pending' AND completed_at IS NOT NULL AND cursor_ms = window_end_ms - 1
RETURNING user_address;
