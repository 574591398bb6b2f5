-- A new worker, of lane $5.
INSERT INTO backfill_workers (worker_id, host, pid, lease_expires_at, lane) VALUES ($1, $2, $3, now() + $4::interval, $5);
