-- Workers, those longest at work first. One has a row for each of its lanes, and is alive with any of them.
SELECT
    host, pid, array_agg(lane ORDER BY lane) AS lanes, bool_or(alive) AS alive, min(started_at) AS started_at,
    max(heard_at) AS heard_at
FROM backfill_workers_now
GROUP BY host, pid
ORDER BY min(started_at), host, pid;
