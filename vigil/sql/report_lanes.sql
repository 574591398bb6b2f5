-- What was told of the runs, by lane: the most used first. What is the process's as a whole stands on one lane's rows.
SELECT
    lane,
    count(DISTINCT worker_id) AS workers,
    count(*) AS samples,
    min(at - seconds * interval '1 second') AS first_at,
    max(at) AS last_at,
    sum(seconds::double precision) AS seconds,
    sum(allowed_weight)::bigint AS allowed_weight,
    sum(spent_weight)::bigint AS spent_weight,
    sum(requests)::bigint AS requests,
    sum(pauses)::bigint AS pauses,
    sum(inserted)::bigint AS inserted,
    sum(received)::bigint AS received,
    sum(users_done)::bigint AS users_done,
    sum(users_failed)::bigint AS users_failed
FROM backfill_samples
GROUP BY lane
ORDER BY sum(spent_weight) DESC, lane;
