-- Users that have been read to the end, behind $2 and at most $3, and of how many windows of up to $4 rows each of their
-- lists is made; $1: only these. The rows are those that the backfill added, so that none need be counted here. A user
-- that a repair holds, or left behind when it was killed, was read to the end as well: see audit_claim.sql.
SELECT
    user_address, window_start_ms, window_end_ms, slices_cursor_ms,
    greatest(1, ceil(fills_count / $4::numeric))::bigint AS parts
FROM backfill_progress
WHERE (completed OR (completed_at IS NOT NULL AND cursor_ms = window_end_ms - 1)) AND window_end_ms IS NOT NULL
    AND ($1::text[] IS NULL OR user_address = ANY ($1::text[]))
    AND user_address > $2::text
ORDER BY user_address
LIMIT $3;
