-- How many fills of user $1 lie in each of the spans [$2, $3] ms, in their order.
SELECT count(f.user_address) AS rows
FROM unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS span (from_ms, to_ms, place)
LEFT JOIN LATERAL (
    SELECT user_address FROM fills
    WHERE fills.user_address = $1
        AND fills.time >= timestamptz 'epoch' + from_ms * interval '1 millisecond'
        AND fills.time <= timestamptz 'epoch' + to_ms * interval '1 millisecond'
) AS f ON true
GROUP BY place
ORDER BY place;
