-- How many workers are at work.
SELECT backfill_workers_alive();
