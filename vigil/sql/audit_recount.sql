-- Rows that the backfill had added to user $1, held by worker $2, and that are no longer there, are not counted as
-- added any more: a repair is about to add them again.
UPDATE backfill_progress
SET fills_count = least(fills_count, (SELECT count(*) FROM fills AS f WHERE f.user_address = $1)), updated_at = now()
WHERE user_address = $1 AND claimed_by = $2;
