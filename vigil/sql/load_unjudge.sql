-- The users $1 have new rows: their verdict is to be found again.
WITH judged AS (
    SELECT user_address FROM backfill_progress
    WHERE user_address = ANY ($1::text[]) AND state = 'completed' AND judged_at IS NOT NULL
    ORDER BY user_address
    FOR NO KEY UPDATE
)
UPDATE backfill_progress AS p SET judged_at = NULL, updated_at = now()
FROM judged
WHERE p.user_address = judged.user_address;
