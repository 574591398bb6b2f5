-- A new worker.
INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at) VALUES ($1, $2, $3, now() + $4::interval);
