-- What went wrong so far, by kind, all workers together.
SELECT kind, sum(count)::bigint AS count, max(newest_at) AS newest_at FROM backfill_faults GROUP BY kind ORDER BY kind;
