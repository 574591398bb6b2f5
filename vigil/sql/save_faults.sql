-- What went wrong in worker $1's life so far: $2 kinds, $3 counts. Absolute, so that telling it twice changes nothing.
INSERT INTO backfill_faults AS f (kind, worker_id, count)
SELECT kind, $1, count FROM unnest($2::text[], $3::bigint[]) AS told (kind, count)
ON CONFLICT (kind, worker_id) DO UPDATE SET count = excluded.count, newest_at = now() WHERE f.count <> excluded.count;
