-- How many windows audit_windows.sql knows in all, and of how many users. Both lists of a user have as many.
SELECT
    coalesce(sum(greatest(1, ceil(fills_count / $2::numeric)) * CASE WHEN slices_cursor_ms IS NULL THEN 1 ELSE 2 END), 0)
        ::bigint AS windows,
    count(*) AS users
FROM backfill_progress
WHERE (completed OR (completed_at IS NOT NULL AND cursor_ms = window_end_ms - 1)) AND window_end_ms IS NOT NULL
    AND ($1::text[] IS NULL OR user_address = ANY ($1::text[]));
