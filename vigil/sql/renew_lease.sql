-- No row: another worker took over.
UPDATE backfill_workers SET lease_expires_at = now() + $2::interval, suspect_since = NULL
WHERE worker_id = $1
RETURNING worker_id;
