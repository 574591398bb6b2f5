-- Fills and volume (price times size) by month, UTC, from the rows themselves.
SELECT
    date_trunc('month', day, 'UTC') AS month,
    sum(fills)::bigint AS fills,
    sum(volume) AS volume
FROM (
    SELECT
        date_bin('1 day', time, timestamptz '2000-01-01 00:00:00+00') AS day,
        count(*) AS fills,
        sum(px * sz) AS volume
    FROM fills
    GROUP BY 1
) AS days
GROUP BY 1
ORDER BY 1;
