-- The rows of a span of users within a window, in the exchange's order: COPY streams them out. A NULL is no bound.
-- One span at a time, since a columnstore has to sort what it answers, and that should fit the server's memory.
SELECT
    user_address, time, coin, side, px, sz, start_position, closed_pnl, fee, dir, hash, oid, crossed,
    fee_token, tid, twap_id, cloid, builder_fee, liquidation, block_time, seq, extra
FROM fills
WHERE ($1::timestamptz IS NULL OR time >= $1)
    AND ($2::timestamptz IS NULL OR time < $2)
    AND ($3::text IS NULL OR user_address >= $3)
    AND ($4::text IS NULL OR user_address < $4)
    AND ($5::text[] IS NULL OR user_address = ANY ($5))
ORDER BY user_address, time, seq, tid, oid, side, coin;
