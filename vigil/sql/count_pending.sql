-- Users of the shards [$3, $4) with something to read in [$1, $2).
SELECT count(*) FROM backfill_progress
WHERE state = 'pending' AND shard >= $3 AND shard < $4
    AND backfill_unread(cursor_ms, window_start_ms, slices_wanted, slices_cursor_ms, $1, $2);
