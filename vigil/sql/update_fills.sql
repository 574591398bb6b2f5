-- The staged rows that tell something new of a row that is there. By way of a conflict, because that finds
-- the row's chunk directly where a join would look into each.
WITH changed AS MATERIALIZED (
    SELECT DISTINCT ON (user_address, time, coin, oid, tid, side) *
    FROM staged_known
    WHERE tells_more
),
updated AS (
    INSERT INTO fills AS f (
        user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
        fee_token, tid, twap_id, cloid, builder_fee, liquidation, seq, extra, block_time
    )
    SELECT
        user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
        fee_token, tid, twap_id, cloid, builder_fee, liquidation, seq, extra, block_time
    FROM changed
    ON CONFLICT (user_address, time, coin, oid, tid, side) DO UPDATE SET
        px = excluded.px,
        sz = excluded.sz,
        start_position = coalesce(excluded.start_position, f.start_position),
        closed_pnl = coalesce(excluded.closed_pnl, f.closed_pnl),
        fee = coalesce(excluded.fee, f.fee),
        dir = coalesce(excluded.dir, f.dir),
        hash = coalesce(excluded.hash, f.hash),
        crossed = coalesce(excluded.crossed, f.crossed),
        fee_token = coalesce(excluded.fee_token, f.fee_token),
        twap_id = coalesce(excluded.twap_id, f.twap_id),
        cloid = coalesce(excluded.cloid, f.cloid),
        builder_fee = coalesce(excluded.builder_fee, f.builder_fee),
        liquidation = coalesce(excluded.liquidation, f.liquidation),
        seq = coalesce(f.seq, excluded.seq),
        extra = coalesce(
            f.extra || (
                SELECT jsonb_object_agg(key, value) FROM jsonb_each(excluded.extra)
                WHERE value <> 'null' OR NOT f.extra ? key
            ),
            f.extra,
            excluded.extra
        ),
        block_time = coalesce(excluded.block_time, f.block_time)
    RETURNING 1
)
-- Told, because somebody else may have said the same since it was compared: then there is less to tell.
SELECT (SELECT count(*) FROM updated) AS updated, (SELECT count(*) FROM changed) AS told;
