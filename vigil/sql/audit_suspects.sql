-- Of the users of audit_windows.sql those that something is known against: a gap that was recorded, a row that could
-- not be stored, a verdict. Behind $2, at most $3, $1: only these.
SELECT user_address, window_start_ms, window_end_ms, slices_cursor_ms, 1::bigint AS parts
FROM backfill_progress AS p
WHERE (completed OR (completed_at IS NOT NULL AND cursor_ms = window_end_ms - 1)) AND window_end_ms IS NOT NULL
    AND ($1::text[] IS NULL OR user_address = ANY ($1::text[]))
    AND user_address > $2::text
    AND (
        verdict = 'gap'
        OR EXISTS (SELECT FROM backfill_gaps AS g WHERE g.user_address = p.user_address)
        OR EXISTS (SELECT FROM rejected_fills AS r WHERE r.user_address = p.user_address)
    )
ORDER BY user_address
LIMIT $3;
