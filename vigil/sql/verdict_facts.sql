-- What is known of the users $1 beside their rows: vigil.verdict.UserFacts, the gaps as three arrays.
-- Rows after the window count against what the exchange keeps; they are counted along the key's index.
SELECT
    p.user_address,
    p.completed,
    coalesce(p.window_start_ms, 0) AS window_start_ms,
    coalesce(p.window_end_ms, 0) AS window_end_ms,
    (extract(epoch FROM p.completed_at) * 1000)::bigint AS completed_ms,
    coalesce(later.rows, 0) AS rows_after_window,
    coalesce(rejected.rows, 0) AS rejected_rows,
    coalesce(p.slices_cursor_ms >= p.window_end_ms, false) AS slices_read,
    p.lifetime_volume,
    p.uncapped,
    coalesce(gaps.from_ms, '{}') AS gaps_from_ms,
    coalesce(gaps.to_ms, '{}') AS gaps_to_ms,
    coalesce(gaps.kind, '{}') AS gaps_kind
FROM backfill_progress AS p
LEFT JOIN LATERAL (
    SELECT count(*) AS rows FROM fills AS f
    WHERE f.user_address = p.user_address
        AND f.time >= timestamptz 'epoch' + p.window_end_ms * interval '1 millisecond'
) AS later ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS rows FROM rejected_fills AS r WHERE r.user_address = p.user_address
) AS rejected ON true
LEFT JOIN LATERAL (
    SELECT
        array_agg(g.from_ms ORDER BY g.from_ms, g.to_ms, g.kind) AS from_ms,
        array_agg(g.to_ms ORDER BY g.from_ms, g.to_ms, g.kind) AS to_ms,
        array_agg(g.kind ORDER BY g.from_ms, g.to_ms, g.kind) AS kind
    FROM backfill_gaps AS g WHERE g.user_address = p.user_address AND NOT (p.uncapped AND g.kind = 'retention')
) AS gaps ON true
WHERE p.user_address = ANY($1::text[]);
