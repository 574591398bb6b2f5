-- Spans in which rows may be missing, by kind.
SELECT kind, count(*) AS gaps, count(DISTINCT user_address) AS users FROM backfill_gaps GROUP BY kind ORDER BY kind;
