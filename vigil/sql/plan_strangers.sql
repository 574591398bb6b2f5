-- Users of `fills` that `backfill_progress` does not know: a walk from one address to the next along the key's index.
-- Those that are known fall out first; an address that is not in lower case may be known all the same.
WITH RECURSIVE found AS (
    (SELECT user_address FROM fills ORDER BY user_address LIMIT 1)
    UNION ALL
    SELECT (
        SELECT f.user_address FROM fills AS f WHERE f.user_address > found.user_address ORDER BY f.user_address LIMIT 1
    )
    FROM found
    WHERE found.user_address IS NOT NULL
),
strangers AS MATERIALIZED (SELECT user_address FROM found EXCEPT SELECT user_address FROM backfill_progress)
SELECT count(DISTINCT lower(user_address)) FROM strangers
WHERE lower(user_address) ~ '^0x[0-9a-f]{40}$'
    AND NOT EXISTS (SELECT FROM backfill_progress AS p WHERE p.user_address = lower(strangers.user_address));
