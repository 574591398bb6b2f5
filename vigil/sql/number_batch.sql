-- Last statement of every batch: tells whether a COMMIT whose answer was lost took effect. A sign of life, too.
UPDATE backfill_workers SET committed_batch = $2, lease_expires_at = now() + $3::interval, suspect_since = NULL
WHERE worker_id = $1;
