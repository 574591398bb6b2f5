-- Rows of user $1 that the database once refused are stored now: $2 the SHA-256 of the raw row, $3 time (ms), $4 coin,
-- $5 oid, $6 tid, $7 side.
WITH stored AS (
    DELETE FROM rejected_fills AS r
    USING unnest($2::bytea[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[])
        AS told (raw_sha256, time_ms, coin, oid, tid, side)
    WHERE r.user_address = $1 AND r.raw_sha256 = told.raw_sha256
        AND EXISTS (
            SELECT FROM fills AS f
            WHERE f.user_address = $1 AND f.time = timestamptz 'epoch' + told.time_ms * interval '1 millisecond'
                AND f.coin = told.coin AND f.oid = told.oid AND f.tid = told.tid AND f.side = told.side
        )
    RETURNING 1
)
SELECT count(*) FROM stored;
