-- Failed users of the shards [$1, $2) are tried again, those that kept failing ($3 tries) excepted. These may be many, and
-- the same at every start: an index has all that is asked of it first, and passes them over.
WITH again AS MATERIALIZED (
    SELECT user_address FROM backfill_progress
    WHERE state = 'failed' AND attempts < $3 AND shard >= $1 AND shard < $2
    ORDER BY attempts, shard
)
UPDATE backfill_progress AS p SET failed_at = NULL, updated_at = now()
FROM again
WHERE p.user_address = again.user_address AND p.state = 'failed';
