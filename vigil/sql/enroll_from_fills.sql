-- The next $2 users of `fills` behind $1 become known: a walk from one address to the next along the key's index (a
-- loose index scan), so that the cost grows with the users and not with the rows. `behind`: go on there; NULL: the end.
WITH RECURSIVE found AS (
    (SELECT user_address FROM fills WHERE user_address > $1 ORDER BY user_address LIMIT 1)
    UNION ALL
    SELECT (
        SELECT f.user_address FROM fills AS f WHERE f.user_address > found.user_address ORDER BY f.user_address LIMIT 1
    )
    FROM found
    WHERE found.user_address IS NOT NULL
),
page AS MATERIALIZED (SELECT user_address FROM found WHERE user_address IS NOT NULL LIMIT $2),
enrolled AS (
    INSERT INTO backfill_progress (user_address)
    SELECT DISTINCT lower(user_address) AS known FROM page
    WHERE lower(user_address) ~ '^0x[0-9a-f]{40}$'
    ORDER BY known
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT CASE WHEN count(*) = $2 THEN max(user_address) END AS behind, (SELECT count(*) FROM enrolled) AS enrolled FROM page;
