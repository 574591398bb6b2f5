-- The next $4 users behind ($2, $3) that are nobody's, in the order of their shard: whether they have fills to read
-- before $1 ms that the exchange may be losing, and whether they are thought urgent. One that other sources are asked
-- for (until_ms) has lost already what could be lost.
SELECT
    user_address, shard, urgency > 0 AS urgent,
    until_ms IS NULL AND (cursor_ms IS NULL OR cursor_ms < $1) AS unread
FROM backfill_progress
WHERE state = 'pending' AND (shard, user_address) > ($2::bigint, $3::text)
ORDER BY shard, user_address
LIMIT $4;
