-- Completed users of the shards [$3, $4) whose window is narrower than [$1, $2) go on. A completed row without a
-- window was declared complete by hand: left alone.
UPDATE backfill_progress SET completed = false, completed_at = NULL, updated_at = now()
WHERE state = 'completed' AND (window_start_ms > $1 OR cursor_ms < $2) AND shard >= $3 AND shard < $4;
