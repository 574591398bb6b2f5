-- The same for a hypertable, where each step of that walk would look into every chunk (0.2 ms of 30 chunks): one merge of
-- all the chunks' indexes, in which TimescaleDB skips from address to address (SkipScan) where that pays.
WITH page AS MATERIALIZED (
    SELECT DISTINCT user_address FROM fills WHERE user_address > $1 ORDER BY user_address LIMIT $2
),
enrolled AS (
    INSERT INTO backfill_progress (user_address)
    SELECT DISTINCT lower(user_address) AS known FROM page
    WHERE lower(user_address) ~ '^0x[0-9a-f]{40}$'
    ORDER BY known
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT CASE WHEN count(*) = $2 THEN max(user_address) END AS behind, (SELECT count(*) FROM enrolled) AS enrolled FROM page;
