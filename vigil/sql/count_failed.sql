-- Failed users of the shards [$1, $2), the parked ones too. Those of all shards the counters know.
SELECT CASE
    WHEN $1::bigint <= 0 AND $2::bigint >= 4294967296 THEN (
        SELECT coalesce(sum(users), 0)::bigint FROM backfill_counts WHERE what = 'users' AND state = 'failed'
    )
    ELSE (SELECT count(*) FROM backfill_progress WHERE state = 'failed' AND shard >= $1 AND shard < $2)
END;
