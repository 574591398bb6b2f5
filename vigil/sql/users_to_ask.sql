-- Users whose verdict is one of $1, and those that source $2 (NULL: none) was being asked for when it was stopped: some
-- may have lost their verdict by that.
SELECT user_address FROM backfill_progress
WHERE verdict = ANY ($1::backfill_verdict[])
    OR (NOT completed AND source = $2 AND until_ms IS NOT NULL)
ORDER BY user_address;
