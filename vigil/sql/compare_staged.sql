-- Of the staged rows, how many the table holds (all of them, or the batch must not commit), and how many of
-- those tell something new.
SELECT count(*) AS present, count(*) FILTER (WHERE tells_more) AS changed FROM staged_known;
