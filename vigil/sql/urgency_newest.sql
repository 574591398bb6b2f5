-- The newest fill from $1 ms on of any known user, in ms; of $2 users if that is not NULL. One look into the key's index
-- for each user and each chunk from $1 on.
SELECT (extract(epoch FROM max(newest.time)) * 1000)::bigint
FROM (SELECT user_address FROM backfill_progress LIMIT $2) AS known
CROSS JOIN LATERAL (
    SELECT f.time FROM fills AS f
    WHERE f.user_address = known.user_address AND f.time >= timestamptz 'epoch' + $1::bigint * interval '1 millisecond'
    ORDER BY f.time DESC
    LIMIT 1
) AS newest;
