-- The staged rows, none of which the table holds: without the second look for a conflict that ON CONFLICT takes at each.
INSERT INTO fills (
    user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
    fee_token, tid, twap_id, cloid, builder_fee, liquidation, seq, extra, block_time
)
SELECT
    user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
    fee_token, tid, twap_id, cloid, builder_fee, liquidation, seq, extra, block_time
FROM staged_fills;
