-- Users $1 are to be asked for at source $2 as well: a truncated one for what lies before its first fill, any other
-- for the whole of its window. Those that are being read, or failed, are left alone.
UPDATE backfill_progress SET
    completed = false,
    completed_at = NULL,
    source = $2,
    until_ms = CASE WHEN verdict = 'truncated' THEN least(oldest_fill_time + 1, window_end_ms) ELSE window_end_ms END,
    cursor_ms = window_start_ms,
    updated_at = now()
WHERE user_address = ANY ($1::text[])
    AND state = 'completed' AND window_end_ms IS NOT NULL AND $2 <> ALL (sources);
