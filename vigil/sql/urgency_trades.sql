-- vigil.urgency.Trades of those of the users $1 that have traded since $4 ms (the last week known), from $2, the
-- window's end, on; $3: the last day known, $5: how many rows are counted at most. It is the newest that are, so the
-- day and the week are whole where the count is.
SELECT told.user_address, counted.rows, counted.rows_of_day, counted.rows_of_week
FROM unnest($1::text[]) AS told (user_address)
CROSS JOIN LATERAL (
    SELECT FROM fills AS f
    WHERE f.user_address = told.user_address
        AND f.time >= timestamptz 'epoch' + $4::bigint * interval '1 millisecond'
    LIMIT 1
) AS active
CROSS JOIN LATERAL (
    SELECT
        count(*) AS rows,
        count(*) FILTER (
            WHERE newest.time >= timestamptz 'epoch' + $3::bigint * interval '1 millisecond'
        ) AS rows_of_day,
        count(*) FILTER (
            WHERE newest.time >= timestamptz 'epoch' + $4::bigint * interval '1 millisecond'
        ) AS rows_of_week
    FROM (
        SELECT f.time FROM fills AS f
        WHERE f.user_address = told.user_address
            AND f.time >= timestamptz 'epoch' + $2::bigint * interval '1 millisecond'
        ORDER BY f.time DESC
        LIMIT $5
    ) AS newest
) AS counted;
