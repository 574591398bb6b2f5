-- The next user behind ($3, $4) that is nobody's and has something to read in [$1, $2) from source $6; shards end
-- before $5. Going on where the last claim stopped keeps it cheap while the entries of claimed users await a vacuum.
SELECT user_address, shard FROM backfill_progress
WHERE state = 'pending' AND shard < $5 AND (shard, user_address) > ($3::bigint, $4::text)
    AND (until_ms IS NULL OR source = $6)
    AND backfill_unread(cursor_ms, window_start_ms, slices_wanted, slices_cursor_ms, $1, $2)
ORDER BY shard, user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
