-- User $1 is repaired and committed as completed just now, but it was read at $2. $3: the oldest row of the repair, ms.
UPDATE backfill_progress
SET completed_at = $2, cursor_ms = window_end_ms, oldest_fill_time = least(oldest_fill_time, $3), updated_at = now()
WHERE user_address = $1 AND completed;
