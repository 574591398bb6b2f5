-- The newest failures.
SELECT user_address, attempts, last_error, failed_at
FROM backfill_progress
WHERE state = 'failed'
ORDER BY failed_at DESC
LIMIT 10;
