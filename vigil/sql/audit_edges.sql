-- Where the windows 2 to $5 begin when the fills of user $1 in [$3, $4) ms ($2: those of TWAP orders) are cut into $5
-- windows of equal numbers of rows. No millisecond is cut: windows may be the same.
SELECT (extract(epoch FROM time) * 1000)::bigint AS from_ms
FROM (
    SELECT time, row_number() OVER (ORDER BY time) - 1 AS place, count(*) OVER () AS rows
    FROM fills
    WHERE user_address = $1 AND (twap_id IS NOT NULL) = $2
        AND time >= timestamptz 'epoch' + $3 * interval '1 millisecond'
        AND time < timestamptz 'epoch' + $4 * interval '1 millisecond'
) AS placed
JOIN generate_series(1, $5::bigint - 1) AS part ON place = part * rows / $5::bigint
ORDER BY part;
