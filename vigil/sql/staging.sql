-- Where a batch lands before the upsert: columns in the order of vigil.copy_text.COPY_COLUMNS.
CREATE TEMP TABLE IF NOT EXISTS staged_fills (
    user_address text COLLATE "C", time timestamptz, coin text COLLATE "C", side text COLLATE "C",
    px numeric, sz numeric, start_position numeric, closed_pnl numeric, fee numeric, dir text, hash text,
    oid bigint, crossed boolean, fee_token text, tid bigint, twap_id bigint, cloid text, builder_fee numeric,
    liquidation jsonb, seq integer, extra jsonb, block_time timestamptz
);

-- The staged rows that the table holds, and whether they tell something new of theirs. Nothing known is
-- replaced by NULL, nor in `extra` by null; `seq` stays what it was first, since a millisecond served again after retention cut
-- into it counts from another row. Reads each user's stretch of the key's index once, not row by row.
CREATE OR REPLACE TEMP VIEW staged_known AS
WITH stretches AS (
    SELECT user_address, min(time) AS first, max(time) AS last FROM staged_fills GROUP BY user_address
),
stored AS MATERIALIZED (
    SELECT f.*
    FROM stretches
    CROSS JOIN LATERAL (
        SELECT * FROM fills
        WHERE fills.user_address = stretches.user_address AND fills.time BETWEEN stretches.first AND stretches.last
        OFFSET 0  -- keeps it a loop over the users: joined otherwise, all of `fills` would be read
    ) AS f
)
SELECT
    s.*,
    (
        f.px, f.sz, f.start_position, f.closed_pnl, f.fee, f.dir, f.hash, f.crossed, f.fee_token, f.twap_id,
        f.cloid, f.builder_fee, f.liquidation, f.seq, f.extra, f.block_time
    ) IS DISTINCT FROM (
        s.px, s.sz, coalesce(s.start_position, f.start_position), coalesce(s.closed_pnl, f.closed_pnl),
        coalesce(s.fee, f.fee), coalesce(s.dir, f.dir), coalesce(s.hash, f.hash), coalesce(s.crossed, f.crossed),
        coalesce(s.fee_token, f.fee_token), coalesce(s.twap_id, f.twap_id), coalesce(s.cloid, f.cloid),
        coalesce(s.builder_fee, f.builder_fee), coalesce(s.liquidation, f.liquidation), coalesce(f.seq, s.seq),
        CASE
            WHEN s.extra IS NULL OR s.extra = f.extra THEN f.extra
            ELSE coalesce(
                f.extra || (
                    SELECT jsonb_object_agg(key, value) FROM jsonb_each(s.extra)
                    WHERE value <> 'null' OR NOT f.extra ? key
                ),
                f.extra,
                s.extra
            )
        END,
        coalesce(s.block_time, f.block_time)
    ) AS tells_more
FROM staged_fills AS s
JOIN stored AS f
    ON f.user_address = s.user_address AND f.time = s.time AND f.coin = s.coin
    AND f.oid = s.oid AND f.tid = s.tid AND f.side = s.side;
