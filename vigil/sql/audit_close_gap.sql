-- The gap [$2, $3] of user $1 has been read again whole.
DELETE FROM backfill_gaps WHERE user_address = $1 AND from_ms = $2 AND to_ms = $3 AND kind = $4;
