-- How many of the staged rows the table holds now: all of them, or the batch must not commit.
SELECT count(*)
FROM staged_fills AS s
WHERE EXISTS (
    SELECT FROM fills AS f
    WHERE f.user_address = s.user_address AND f.time = s.time AND f.coin = s.coin
        AND f.oid = s.oid AND f.tid = s.tid AND f.side = s.side
);
