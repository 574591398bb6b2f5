-- User $1 is worker $2's, to read [$3, $4) from source $5; $6: its TWAP slices too. What has been read of it counts
-- only where it touches that window without a hole, and was read from this source, or to the end; else the reading
-- starts anew (the fills stay, and cost no second row). It goes on at the newest fill rather than at the cursor: what
-- is held there must come back. Sources that were read to the end of a narrower window may have more now.
UPDATE backfill_progress AS p SET
    claimed_by = $2,
    claimed_at = now(),
    started_at = coalesce(p.started_at, now()),
    cursor_ms = CASE WHEN was.goes_on THEN p.cursor_ms ELSE $3 END,
    newest_fill_time = CASE WHEN was.goes_on THEN p.newest_fill_time END,
    oldest_fill_time = CASE WHEN was.goes_on THEN p.oldest_fill_time END,
    slices_cursor_ms = CASE WHEN was.goes_on THEN p.slices_cursor_ms END,
    window_start_ms = CASE WHEN was.goes_on THEN p.window_start_ms ELSE $3 END,
    window_end_ms = CASE WHEN p.until_ms IS NULL THEN $4 ELSE p.window_end_ms END,
    sources = CASE WHEN p.until_ms IS NOT NULL OR was.goes_on AND p.window_end_ms >= $4 THEN p.sources ELSE '{}' END,
    uncapped = p.uncapped AND (p.until_ms IS NOT NULL OR was.goes_on AND p.window_end_ms >= $4),
    slices_wanted = p.slices_wanted OR $6,
    source = $5,
    verdict = NULL,
    judged_at = NULL,
    updated_at = now()
FROM (
    SELECT
        until_ms IS NOT NULL OR (
            window_start_ms <= $3 AND cursor_ms >= $3
            AND (source = $5 OR $5 = ANY (sources) OR cursor_ms >= $4)
        ) AS goes_on
    FROM backfill_progress
    WHERE user_address = $1
) AS was
WHERE p.user_address = $1
RETURNING
    p.cursor_ms < coalesce(p.until_ms, p.window_end_ms) AS reads_fills,
    coalesce(p.until_ms, p.window_end_ms) AS fills_end_ms,
    CASE WHEN p.until_ms IS NULL THEN coalesce(p.newest_fill_time, p.cursor_ms) ELSE p.cursor_ms END AS fills_from_ms,
    CASE WHEN p.until_ms IS NULL THEN p.newest_fill_time IS NOT NULL ELSE p.cursor_ms > p.window_start_ms END AS holds_fills,
    p.window_end_ms AS slices_end_ms,
    coalesce(p.slices_cursor_ms, p.window_start_ms) AS slices_from_ms,
    p.slices_cursor_ms IS NOT NULL AS holds_slices;
