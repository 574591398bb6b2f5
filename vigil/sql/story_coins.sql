-- The fills of user $1 by coin, and what was found of each: ms, rows, verdict with its evidence as JSON.
SELECT
    held.coin, held.rows, held.first_ms, held.last_ms, held.notional, held.twap_rows, held.archive_rows,
    v.verdict::text AS verdict, v.causes, v.why, v.evidence
FROM (
    SELECT
        coin,
        count(*) AS rows,
        (extract(epoch FROM min(time)) * 1000)::bigint AS first_ms,
        (extract(epoch FROM max(time)) * 1000)::bigint AS last_ms,
        sum(px * sz) AS notional,
        count(twap_id) AS twap_rows,
        count(block_time) AS archive_rows
    FROM fills
    WHERE user_address = $1
    GROUP BY coin
) AS held
LEFT JOIN backfill_verdicts AS v ON v.user_address = $1 AND v.coin = held.coin
ORDER BY held.rows DESC, held.coin;
