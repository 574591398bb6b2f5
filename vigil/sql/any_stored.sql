-- Whether the table holds rows of users $1 between the times $2 and $3, both inclusive: if not, rows of theirs between
-- those are new. One look into the key's index for each.
SELECT EXISTS (
    SELECT
    FROM unnest($1::text[], $2::text[], $3::text[]) AS told (user_address, first, last)
    CROSS JOIN LATERAL (
        SELECT FROM fills
        WHERE fills.user_address = told.user_address
            AND fills.time BETWEEN told.first::timestamptz AND told.last::timestamptz
        LIMIT 1
    ) AS f
);
