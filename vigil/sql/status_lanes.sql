-- Workers and weight by address: what it may spend a period and has spent in the last one, and of what it was allowed
-- within $1 what it has spent.
WITH lately AS (
    SELECT lane, sum(allowed_weight) AS allowed, sum(spent_weight) AS spent
    FROM backfill_samples
    WHERE at > now() - $1::interval
    GROUP BY lane
)
SELECT
    w.lane,
    count(*) AS workers,
    count(*) FILTER (WHERE w.alive) AS workers_alive,
    sum(w.share_weight)::bigint AS share_weight,
    sum(w.used_weight)::bigint AS used_weight,
    coalesce(sum(w.share_weight / extract(epoch FROM w.period)) FILTER (WHERE w.alive), 0)::float8 AS weight_per_second,
    (max(lately.spent) / nullif(max(lately.allowed), 0))::float8 AS utilisation
FROM backfill_workers_now AS w LEFT JOIN lately USING (lane)
GROUP BY w.lane
ORDER BY w.lane;
