-- How many workers are believed alive.
SELECT count(*) FROM backfill_workers WHERE lease_expires_at > now();
