-- The fills of user $1 in [$2, $3] ms, both lists.
SELECT *, (extract(epoch FROM time) * 1000)::bigint AS time_ms
FROM fills
WHERE user_address = $1
    AND time >= timestamptz 'epoch' + $2 * interval '1 millisecond'
    AND time <= timestamptz 'epoch' + $3 * interval '1 millisecond';
