-- A user that the exchange has answered for, and the last millisecond of its window.
SELECT user_address, window_end_ms - 1 AS last_ms FROM backfill_progress
WHERE state = 'completed' AND cursor_ms IS NOT NULL
ORDER BY cursor_ms DESC
LIMIT 1;
