-- The fills of user $1 stored at $2 ms, where its walk goes on: the exchange's next page must begin with them.
-- $3: those of TWAP orders, else the others.
SELECT coin, oid, tid, side FROM fills
WHERE user_address = $1 AND time = timestamptz 'epoch' + $2 * interval '1 millisecond' AND (twap_id IS NOT NULL) = $3;
