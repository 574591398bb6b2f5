-- The failed users, parked ones too, and the window that each was to be read for.
SELECT user_address, window_start_ms, window_end_ms FROM backfill_progress WHERE state = 'failed' ORDER BY user_address;
