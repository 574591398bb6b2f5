-- Users claimed by a worker that is no more. Interrupted is not failed: no attempt is counted.
WITH ghosts AS MATERIALIZED (
    SELECT DISTINCT claimed_by FROM backfill_progress WHERE claimed_by IS NOT NULL
    EXCEPT
    SELECT worker_id FROM backfill_workers
)
UPDATE backfill_progress AS p SET claimed_by = NULL, updated_at = now()
FROM ghosts WHERE p.claimed_by = ghosts.claimed_by;
