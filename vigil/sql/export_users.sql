-- Users of an export, with rows in it and without, by what is known of their completeness. less: those that were read
-- to the end of a window, but one that does not hold all of the export's.
WITH written AS (
    SELECT DISTINCT user_address
    FROM fills
    WHERE ($1::timestamptz IS NULL OR time >= $1)
        AND ($2::timestamptz IS NULL OR time < $2)
        AND ($3::text[] IS NULL OR user_address = ANY ($3))
),
known AS (
    SELECT
        user_address,
        CASE
            WHEN state <> 'completed' OR window_end_ms IS NULL THEN 'not_read'
            WHEN verdict IS NULL OR judged_at IS NULL THEN 'not_judged'
            ELSE verdict::text
        END AS word,
        state = 'completed' AND (
            timestamptz 'epoch' + window_start_ms * interval '1 millisecond' > $1
            OR timestamptz 'epoch' + window_end_ms * interval '1 millisecond' < $2
        ) AS less
    FROM backfill_progress
    WHERE $3::text[] IS NULL OR user_address = ANY ($3)
)
SELECT
    written.user_address IS NOT NULL AS with_rows,
    coalesce(known.word, 'not_known') AS word,
    count(*) AS users,
    count(*) FILTER (WHERE known.less) AS less
FROM written
FULL JOIN known ON known.user_address = written.user_address
GROUP BY 1, 2
ORDER BY 1, 2;
