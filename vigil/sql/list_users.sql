-- Known users, all or of one state.
SELECT
    user_address, state::text AS state, verdict::text AS verdict, verdict_why, fills_count, oldest_fill_time,
    window_start_ms, window_end_ms, cursor_ms, slices_cursor_ms, source, sources,
    attempts, last_error, started_at, completed_at
FROM backfill_progress
WHERE $1::text IS NULL OR state::text = $1
ORDER BY user_address;
