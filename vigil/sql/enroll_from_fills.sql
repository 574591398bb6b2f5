-- Every user of `fills` becomes known: a walk from one address to the next along the key's index (a
-- loose index scan), so that the cost grows with the users and not with the rows.
WITH RECURSIVE found AS (
    SELECT min(user_address) AS user_address FROM fills
    UNION ALL
    SELECT (SELECT min(f.user_address) FROM fills AS f WHERE f.user_address > found.user_address)
    FROM found
    WHERE found.user_address IS NOT NULL
)
INSERT INTO backfill_progress (user_address)
SELECT DISTINCT lower(user_address) FROM found
WHERE lower(user_address) ~ '^0x[0-9a-f]{40}$'
ON CONFLICT DO NOTHING;
