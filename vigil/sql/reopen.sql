-- Completed users whose window is narrower than this run's go on, and, at the start of a run ($4), failed ones
-- are tried again. $1 users or NULL for all, $2 start, $3 end (ms, exclusive). A completed row without a window
-- was declared complete by hand: left alone.
UPDATE backfill_progress SET
    completed = false, completed_at = NULL, failed_at = NULL, updated_at = now()
WHERE ($1::text[] IS NULL OR user_address = ANY ($1))
    AND (($4 AND state = 'failed') OR (state = 'completed' AND (window_start_ms > $2 OR cursor_ms < $3)));
