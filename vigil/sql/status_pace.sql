-- What all workers together have done within $1, by their samples. They end at the newest one; where that is older than
-- $2 nobody is at work, and the time since counts too. NULL: no samples.
SELECT
    extract(epoch FROM CASE WHEN max(at) > now() - $2::interval THEN max(at) ELSE now() END
        - min(at - seconds * interval '1 second'))::float8 AS seconds,
    coalesce(sum(received), 0)::bigint AS rows,
    coalesce(sum(users_done), 0)::bigint AS users,
    coalesce(sum(spent_weight), 0)::bigint AS weight,
    coalesce(sum(allowed_weight), 0)::bigint AS allowed_weight,
    coalesce(sum(requests), 0)::bigint AS requests,
    coalesce(sum(pauses), 0)::bigint AS pauses
FROM backfill_samples
WHERE at > now() - $1::interval;
