-- Completed users of the shards [$1, $2) that await their verdict, at most $3; locked, so that others take others.
SELECT user_address FROM backfill_progress
WHERE state = 'completed' AND judged_at IS NULL AND window_end_ms IS NOT NULL AND shard >= $1 AND shard < $2
ORDER BY shard, user_address
LIMIT $3
FOR UPDATE SKIP LOCKED;
