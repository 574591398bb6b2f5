-- The workers $1 are no more; release_orphans.sql frees what they still held. What their lane's current period has seen
-- of them stays: what they told, and the rest of their claim as if it had been spent just now, with the overshoot $2
-- that a share allows.
WITH gone AS (
    DELETE FROM backfill_workers WHERE worker_id = ANY ($1::bigint[]) RETURNING *
),
told AS (
    SELECT gone.worker_id, gone.lane, spent.weight, spent.expires_at
    FROM gone CROSS JOIN LATERAL unnest(gone.spent_weight, gone.spent_until) AS spent (weight, expires_at)
    WHERE spent.expires_at > clock_timestamp()
),
untold AS (
    SELECT
        gone.lane,
        greatest(CASE WHEN gone.share_weight > 0 THEN gone.share_weight + $2::integer ELSE 0 END, gone.used_weight)
            - coalesce((SELECT sum(weight) FROM told WHERE told.worker_id = gone.worker_id), 0) AS weight,
        clock_timestamp() + gone.period AS expires_at
    FROM gone
),
expired AS (
    DELETE FROM backfill_spent_weight WHERE expires_at <= clock_timestamp()
)
INSERT INTO backfill_spent_weight (lane, weight, expires_at)
SELECT lane, weight, expires_at FROM told
UNION ALL
SELECT lane, weight, expires_at FROM untold WHERE weight > 0;
