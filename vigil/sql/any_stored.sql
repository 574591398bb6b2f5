-- Whether the table holds rows of a staged row's user within the times staged of that user: if not, all of them are new.
-- One look into the key's index for each user.
SELECT EXISTS (
    SELECT
    FROM (SELECT user_address, min(time) AS first, max(time) AS last FROM staged_fills GROUP BY user_address) AS s
    CROSS JOIN LATERAL (
        SELECT FROM fills
        WHERE fills.user_address = s.user_address AND fills.time BETWEEN s.first AND s.last
        LIMIT 1
    ) AS f
);
