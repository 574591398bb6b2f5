-- The staged rows that are new. DO NOTHING neither locks nor touches a row that is there already,
-- compressed or not; the rows it passes over are seen to by update_fills.sql.
WITH inserted AS (
    INSERT INTO fills (
        user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
        fee_token, tid, twap_id, cloid, builder_fee, liquidation, seq, extra, block_time
    )
    SELECT
        user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
        fee_token, tid, twap_id, cloid, builder_fee, liquidation, seq, extra, block_time
    FROM staged_fills
    ON CONFLICT (user_address, time, coin, oid, tid, side) DO NOTHING
    RETURNING user_address
)
SELECT user_address, count(*) AS rows FROM inserted GROUP BY user_address;
