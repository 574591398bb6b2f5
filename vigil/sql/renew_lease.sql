-- The worker and its lanes $1 live on. Fewer rows than that: another worker took over.
UPDATE backfill_workers SET lease_expires_at = now() + $2::interval, heard_at = now(), suspect_since = NULL
WHERE worker_id = ANY ($1::bigint[])
RETURNING worker_id;
