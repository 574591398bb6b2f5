-- Whether any user of the shards [$1, $2) is known and nobody's.
SELECT EXISTS (SELECT FROM backfill_progress WHERE state = 'pending' AND shard >= $1 AND shard < $2);
