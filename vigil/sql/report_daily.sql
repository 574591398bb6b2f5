-- The same from `fills_daily`, and from the rows themselves for the days [$1, $2) (arrays of equal length) for which it
-- is not up to date.
WITH behind AS MATERIALIZED (
    SELECT coalesce(range_agg(tstzrange(from_time, until_time)), '{}') AS spans
    FROM unnest($1::timestamptz[], $2::timestamptz[]) AS told (from_time, until_time)
)
SELECT
    date_trunc('month', day, 'UTC') AS month,
    sum(fills)::bigint AS fills,
    sum(volume) AS volume
FROM (
    SELECT day, sum(fills) AS fills, sum(volume) AS volume
    FROM fills_daily
    WHERE NOT (day <@ (SELECT spans FROM behind))
    GROUP BY day
    UNION ALL
    SELECT
        date_bin('1 day', time, timestamptz '2000-01-01 00:00:00+00') AS day,
        count(*) AS fills,
        sum(px * sz) AS volume
    FROM fills
    WHERE time >= (SELECT min(one) FROM unnest($1::timestamptz[]) AS one)
        AND time < (SELECT max(one) FROM unnest($2::timestamptz[]) AS one)
        AND time <@ (SELECT spans FROM behind)
    GROUP BY 1
) AS days
GROUP BY 1
ORDER BY 1;
