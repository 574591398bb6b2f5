-- The same among the users $2.
SELECT
    user_address, shard, urgency > 0 AS urgent,
    until_ms IS NULL AND (cursor_ms IS NULL OR cursor_ms < $1) AS unread
FROM backfill_progress
WHERE state = 'pending' AND user_address = ANY ($2::text[]);
