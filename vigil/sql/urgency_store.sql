-- The estimates of the users $1: $2 rows after the window by now, $3 fills per hour, $4 urgency. Only of those that are
-- nobody's and that nobody has locked, and only where a tenth or more of it has changed.
WITH told AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::real[], $4::real[]) AS told (user_address, rows, pace, urgency)
), free AS (
    SELECT p.user_address, told.rows, told.pace, told.urgency
    FROM backfill_progress AS p
    JOIN told ON told.user_address = p.user_address
    WHERE p.state = 'pending'
        AND (
            p.rows_after_window IS NULL OR p.fills_per_hour IS NULL
            OR abs(told.rows - p.rows_after_window) * 10 > greatest(told.rows, p.rows_after_window)
            OR abs(told.pace - p.fills_per_hour) * 10 > greatest(told.pace, p.fills_per_hour)
            OR abs(told.urgency - p.urgency) * 10 > greatest(told.urgency, p.urgency)
        )
    FOR UPDATE OF p SKIP LOCKED
)
UPDATE backfill_progress AS p SET
    rows_after_window = free.rows, fills_per_hour = free.pace, urgency = free.urgency
FROM free
WHERE p.user_address = free.user_address;
