-- Of the staged rows, how many the table holds (all of them, or the batch must not commit), and how many
-- fills those tell something new of.
SELECT
    count(*) AS present,
    count(DISTINCT (user_address, time, coin, oid, tid, side)) FILTER (WHERE tells_more) AS changed
FROM staged_known;
