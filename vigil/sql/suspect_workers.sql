-- Workers whose session is gone (their advisory lock is free) are suspected from now on; dead are those
-- suspected for $2 or longer without a sign of life, and those whose lease ran out. Not oneself, $1: one's own
-- locks can always be taken again. Workers in the middle of a commit are passed over.
UPDATE backfill_workers SET suspect_since = coalesce(suspect_since, now())
WHERE worker_id IN (
    SELECT worker_id FROM backfill_workers
    WHERE worker_id <> ALL ($1::bigint[]) AND (lease_expires_at < now() OR pg_try_advisory_xact_lock(worker_id))
    FOR UPDATE SKIP LOCKED
)
RETURNING worker_id, lease_expires_at < now() OR suspect_since <= now() - $2::interval AS dead;
