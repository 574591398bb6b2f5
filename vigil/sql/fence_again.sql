-- The same when a batch is tried again: waits for an earlier try that the server may be committing still.
SELECT committed_batch FROM backfill_workers WHERE worker_id = $1 FOR UPDATE;
