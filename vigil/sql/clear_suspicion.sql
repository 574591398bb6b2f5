-- The worker has a session again.
UPDATE backfill_workers SET suspect_since = NULL WHERE worker_id = $1 AND suspect_since IS NOT NULL;
