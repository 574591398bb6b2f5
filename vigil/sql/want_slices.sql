-- Completed users of the shards [$1, $2) whose TWAP slices have not been read go on with those.
UPDATE backfill_progress SET completed = false, completed_at = NULL, slices_wanted = true, updated_at = now()
WHERE state = 'completed' AND window_end_ms IS NOT NULL AND coalesce(slices_cursor_ms, window_start_ms) < window_end_ms
    AND shard >= $1 AND shard < $2;
