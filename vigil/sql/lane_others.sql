-- How many others of worker $1's lane want weight.
SELECT count(*) FROM backfill_workers
WHERE hungry AND worker_id <> $1 AND lane = (SELECT lane FROM backfill_workers WHERE worker_id = $1);
