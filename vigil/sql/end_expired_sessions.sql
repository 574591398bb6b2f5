-- A worker that fell asleep in the middle of a commit holds its locks until its sessions end.
SELECT pg_terminate_backend(a.pid)
FROM backfill_workers AS w
JOIN pg_stat_activity AS a ON a.application_name = 'vigil-backfill ' || w.worker_id
WHERE w.lease_expires_at < now() AND w.worker_id <> $1 AND a.usename = current_user
    AND a.datname = current_database();
