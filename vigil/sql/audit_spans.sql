-- Where something of user $1 is suspect, both ends inclusive, ms: recorded gaps, rows that could not be stored (all of
-- the window if they do not tell their time), links that break (in the order of the rows, so that some are merely
-- listed otherwise inside one millisecond), and what lies before the first fill of a coin that lacks its beginning.
WITH asked AS (
    SELECT window_start_ms, window_end_ms FROM backfill_progress WHERE user_address = $1
),
judged AS (
    SELECT coin, (evidence ->> 'broken')::bigint AS broken, (evidence ->> 'first_ms')::bigint AS first_ms
    FROM backfill_verdicts
    WHERE user_address = $1 AND verdict = 'gap'
),
linked AS (
    SELECT
        time, start_position,
        lag(time) OVER line AS left_at,
        lag(start_position + CASE side WHEN 'B' THEN sz ELSE -sz END) OVER line AS left_behind
    FROM fills
    WHERE user_address = $1 AND coin IN (SELECT coin FROM judged WHERE broken > 0)
    WINDOW line AS (PARTITION BY coin ORDER BY time, seq, tid, oid, side)
)
SELECT from_ms, to_ms FROM backfill_gaps WHERE user_address = $1
UNION
SELECT coalesce(time_ms, window_start_ms), coalesce(time_ms, window_end_ms - 1)
FROM rejected_fills CROSS JOIN asked
WHERE user_address = $1
UNION
SELECT window_start_ms, first_ms FROM judged CROSS JOIN asked WHERE broken = 0
UNION
SELECT (extract(epoch FROM left_at) * 1000)::bigint, (extract(epoch FROM time) * 1000)::bigint
FROM linked
WHERE abs(left_behind - start_position) > greatest(0.000001, 0.000000000001 * abs(start_position));
