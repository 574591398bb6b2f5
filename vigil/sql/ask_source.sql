-- Users $1 are to be asked for at source $2 as well: a truncated one for what lies before its first fill, any other
-- for the whole of its window; $3: for their TWAP slices too, where those were wanted. Those that are being read, or
-- failed, are left alone, and those that this source has been asked for already.
UPDATE backfill_progress SET
    completed = false,
    completed_at = NULL,
    source = $2,
    until_ms = CASE WHEN verdict = 'truncated' THEN least(oldest_fill_time + 1, window_end_ms) ELSE window_end_ms END,
    cursor_ms = window_start_ms,
    slices_cursor_ms = CASE WHEN NOT (slices_wanted AND $3) THEN slices_cursor_ms END,
    updated_at = now()
WHERE user_address = ANY ($1::text[])
    AND state = 'completed' AND window_end_ms IS NOT NULL AND $2 <> ALL (sources);
