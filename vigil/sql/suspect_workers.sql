-- Workers whose lease ran out, or whose session is gone (their advisory lock is free), locked so that their
-- commits wait. Not oneself: one's own lock can always be taken again.
SELECT worker_id, lease_expires_at < now() AS expired FROM backfill_workers
WHERE worker_id <> $1 AND (lease_expires_at < now() OR pg_try_advisory_xact_lock(worker_id))
FOR UPDATE SKIP LOCKED;
