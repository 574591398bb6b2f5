-- Whether a COMMIT whose answer was lost took effect.
SELECT committed_batch FROM backfill_workers WHERE worker_id = $1;
