-- Rows that could not be stored as fills, by reason, the most frequent first; a reason may quote what was served.
SELECT left(reason, 300) AS reason, count(*) AS rows, sum(count(*)) OVER ()::bigint AS all_rows, count(*) OVER () AS reasons
FROM rejected_fills
GROUP BY 1
ORDER BY 2 DESC, 1
LIMIT 10;
