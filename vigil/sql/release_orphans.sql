-- Users claimed by a worker that is no more. Interrupted is not failed: no attempt is counted.
UPDATE backfill_progress SET claimed_by = NULL, updated_at = now()
WHERE claimed_by IS NOT NULL
    AND NOT EXISTS (SELECT FROM backfill_workers WHERE worker_id = claimed_by);
