-- User $1, claimed by worker $2 for a repair, needs none: completed as before, and judged at $3 as before.
UPDATE backfill_progress SET
    completed = true, claimed_by = NULL, cursor_ms = window_end_ms, judged_at = $3, updated_at = now()
WHERE user_address = $1 AND claimed_by = $2;
