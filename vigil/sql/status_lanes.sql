-- Workers and weight by address.
SELECT
    lane, count(*) AS workers, sum(share_weight)::bigint AS share_weight, sum(used_weight)::bigint AS used_weight
FROM backfill_workers
GROUP BY lane
ORDER BY lane;
