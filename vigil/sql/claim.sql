-- User $1 is worker $2's, to read [$3, $4) from source $5; $6: its TWAP slices too. What has been read of it counts
-- only where it touches that window without a hole; else the reading starts anew (the fills stay, and cost no second
-- row). It goes on at the newest fill rather than at the cursor: what is held there must come back.
UPDATE backfill_progress SET
    claimed_by = $2,
    claimed_at = now(),
    started_at = coalesce(started_at, now()),
    cursor_ms = CASE WHEN window_start_ms <= $3 AND cursor_ms >= $3 OR until_ms IS NOT NULL THEN cursor_ms ELSE $3 END,
    newest_fill_time = CASE
        WHEN window_start_ms <= $3 AND cursor_ms >= $3 OR until_ms IS NOT NULL THEN newest_fill_time
    END,
    slices_cursor_ms = CASE
        WHEN window_start_ms <= $3 AND cursor_ms >= $3 OR until_ms IS NOT NULL THEN slices_cursor_ms
    END,
    window_start_ms = CASE
        WHEN window_start_ms <= $3 AND cursor_ms >= $3 OR until_ms IS NOT NULL THEN window_start_ms ELSE $3
    END,
    window_end_ms = CASE WHEN until_ms IS NULL THEN $4 ELSE window_end_ms END,
    slices_wanted = slices_wanted OR $6,
    source = $5,
    verdict = NULL,
    judged_at = NULL,
    updated_at = now()
WHERE user_address = $1
RETURNING
    cursor_ms < coalesce(until_ms, window_end_ms) AS reads_fills,
    coalesce(until_ms, window_end_ms) AS fills_end_ms,
    CASE WHEN until_ms IS NULL THEN coalesce(newest_fill_time, cursor_ms) ELSE cursor_ms END AS fills_from_ms,
    newest_fill_time IS NOT NULL AND until_ms IS NULL AS holds_fills,
    window_end_ms AS slices_end_ms,
    coalesce(slices_cursor_ms, window_start_ms) AS slices_from_ms,
    slices_cursor_ms IS NOT NULL AS holds_slices;
