-- All that is known of user $1.
SELECT
    user_address, state::text AS state, started_at, completed_at, window_start_ms, window_end_ms, cursor_ms, attempts,
    failed_at, last_error, source, sources, until_ms, slices_wanted, slices_cursor_ms, fills_count, verdict::text AS verdict,
    verdict_causes, verdict_why, judged_at, notional, lifetime_volume, rows_after_window,
    (SELECT count(*) FROM rejected_fills AS r WHERE r.user_address = p.user_address) AS rejected_rows
FROM backfill_progress AS p
WHERE user_address = $1;
