-- The next user behind ($3, $4) that is nobody's and has something to read in [$1, $2) from source $6 ($7: it serves
-- TWAP slices too); shards end before $5. Going on where the last claim stopped keeps it cheap while the entries of
-- claimed users await a vacuum.
SELECT user_address, shard FROM backfill_progress
WHERE state = 'pending' AND shard < $5 AND (shard, user_address) > ($3::bigint, $4::text)
    AND CASE
        WHEN until_ms IS NOT NULL THEN source = $6 AND (cursor_ms < until_ms OR $7)
        ELSE backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $7, slices_cursor_ms, $1, $2)
    END
ORDER BY shard, user_address
LIMIT 1
FOR UPDATE SKIP LOCKED;
