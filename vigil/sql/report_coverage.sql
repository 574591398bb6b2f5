-- Users by what has been read of them. $1: the edges of the months, ascending, ms; month k is [edge k, edge k + 1), the
-- first is 0. Read is [first_month, end_month): months that lie in the user's read window as a whole. Fills are known from
-- `oldest_month` on, counted up where the oldest lies inside a month. A user that a further source is being asked for
-- (until_ms) has been read to the window's end.
SELECT
    verdict, first_month, end_month, oldest_month, count(*) AS users
FROM (
    SELECT
        CASE WHEN judged_at IS NOT NULL THEN verdict::text END AS verdict,
        width_bucket(window_start_ms - 1, $1::bigint[]) AS first_month,
        greatest(
            width_bucket(CASE WHEN until_ms IS NULL THEN cursor_ms ELSE window_end_ms END, $1::bigint[]) - 1, 0
        ) AS end_month,
        width_bucket(oldest_fill_time - 1, $1::bigint[]) AS oldest_month
    FROM backfill_progress
    WHERE cursor_ms IS NOT NULL AND window_start_ms IS NOT NULL
) AS placed
GROUP BY 1, 2, 3, 4;
