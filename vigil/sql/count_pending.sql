-- Users of the shards [$3, $4) with something to read in [$1, $2).
SELECT count(*) FROM backfill_progress
WHERE state = 'pending' AND shard >= $3 AND shard < $4
    AND (cursor_ms IS NULL OR cursor_ms < $2 OR window_start_ms > $1);
