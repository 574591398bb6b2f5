-- User $1 is worker $2's, to read [$3, $4). What has been read of it counts only where it touches that
-- window without a hole; else the reading starts anew (the fills stay, and cost no second row). It goes on
-- at the newest fill rather than at the cursor: what is held there must come back.
UPDATE backfill_progress SET
    claimed_by = $2,
    claimed_at = now(),
    started_at = coalesce(started_at, now()),
    cursor_ms = CASE WHEN window_start_ms <= $3 AND cursor_ms >= $3 THEN cursor_ms ELSE $3 END,
    newest_fill_time = CASE WHEN window_start_ms <= $3 AND cursor_ms >= $3 THEN newest_fill_time END,
    window_start_ms = CASE WHEN window_start_ms <= $3 AND cursor_ms >= $3 THEN window_start_ms ELSE $3 END,
    window_end_ms = $4,
    updated_at = now()
WHERE user_address = $1
RETURNING coalesce(newest_fill_time, cursor_ms) AS resume_ms, newest_fill_time IS NOT NULL AS holds;
