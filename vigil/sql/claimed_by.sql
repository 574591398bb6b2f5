-- Whose user $1 is, locked. After a lost answer to a COMMIT: ours, if that took effect.
SELECT claimed_by FROM backfill_progress WHERE user_address = $1 FOR UPDATE;
