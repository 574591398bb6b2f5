-- All users by state, verdict (NULL: not judged since the last row was added) and the length of their history:
-- `bin` counts the edges $1 that `fills_count` has reached. declared:
-- completed by hand, without a window.
SELECT
    state::text AS state,
    CASE WHEN judged_at IS NOT NULL THEN verdict::text END AS verdict,
    width_bucket(fills_count, $1::bigint[]) AS bin,
    count(*) AS users,
    sum(fills_count)::bigint AS fills,
    sum(notional) AS notional,
    count(*) FILTER (WHERE state = 'completed' AND window_end_ms IS NULL) AS declared,
    min(window_start_ms) AS start_ms,
    max(window_end_ms) AS end_ms
FROM backfill_progress
GROUP BY 1, 2, 3;
