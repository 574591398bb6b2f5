-- Why rows of user $1 could not be stored, the most frequent reasons first.
SELECT reason, count(*) AS rows, min(time_ms) AS first_ms, max(time_ms) AS last_ms
FROM rejected_fills
WHERE user_address = $1
GROUP BY reason
ORDER BY rows DESC, reason
LIMIT 10;
