-- First statement of every batch: the worker still lives in everyone's eyes, and is locked so until the
-- commit. No row: another worker took over, and nothing may be committed.
UPDATE backfill_workers SET
    committed_batch = $2, lease_expires_at = now() + $3::interval, suspect_since = NULL
WHERE worker_id = $1
RETURNING worker_id;
