-- The staged rows that were there already: only those that tell something new are rewritten, and
-- nothing known is replaced by NULL. `seq` stays what it was first: a millisecond served again
-- after retention cut into it counts from another row.
WITH updated AS (
    UPDATE fills AS f SET
        px = s.px,
        sz = s.sz,
        start_position = coalesce(s.start_position, f.start_position),
        closed_pnl = coalesce(s.closed_pnl, f.closed_pnl),
        fee = coalesce(s.fee, f.fee),
        dir = coalesce(s.dir, f.dir),
        hash = coalesce(s.hash, f.hash),
        crossed = coalesce(s.crossed, f.crossed),
        fee_token = coalesce(s.fee_token, f.fee_token),
        twap_id = coalesce(s.twap_id, f.twap_id),
        cloid = coalesce(s.cloid, f.cloid),
        builder_fee = coalesce(s.builder_fee, f.builder_fee),
        liquidation = coalesce(s.liquidation, f.liquidation),
        seq = coalesce(f.seq, s.seq),
        extra = coalesce(f.extra || s.extra, s.extra, f.extra)
    FROM staged_fills AS s
    WHERE f.user_address = s.user_address AND f.time = s.time AND f.coin = s.coin
        AND f.oid = s.oid AND f.tid = s.tid AND f.side = s.side
        AND (
            f.px, f.sz, f.start_position, f.closed_pnl, f.fee, f.dir, f.hash, f.crossed, f.fee_token, f.twap_id,
            f.cloid, f.builder_fee, f.liquidation, f.seq, f.extra
        ) IS DISTINCT FROM (
            s.px, s.sz, coalesce(s.start_position, f.start_position), coalesce(s.closed_pnl, f.closed_pnl),
            coalesce(s.fee, f.fee), coalesce(s.dir, f.dir), coalesce(s.hash, f.hash), coalesce(s.crossed, f.crossed),
            coalesce(s.fee_token, f.fee_token), coalesce(s.twap_id, f.twap_id), coalesce(s.cloid, f.cloid),
            coalesce(s.builder_fee, f.builder_fee), coalesce(s.liquidation, f.liquidation), coalesce(f.seq, s.seq),
            coalesce(f.extra || s.extra, s.extra, f.extra)
        )
    RETURNING 1
)
SELECT count(*) FROM updated;
