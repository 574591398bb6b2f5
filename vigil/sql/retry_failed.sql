-- Failed users of the shards [$1, $2) are tried again, those that kept failing ($3 tries) excepted.
UPDATE backfill_progress SET failed_at = NULL, updated_at = now()
WHERE state = 'failed' AND attempts < $3 AND shard >= $1 AND shard < $2;
