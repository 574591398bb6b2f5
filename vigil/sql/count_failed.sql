-- Failed users of the shards [$1, $2), the parked ones too.
SELECT count(*) FROM backfill_progress WHERE state = 'failed' AND shard >= $1 AND shard < $2;
