-- Those of the users $1 that can't be audited: unknown, or not read to the end.
SELECT named.user_address, p.state::text AS state
FROM unnest($1::text[]) AS named (user_address)
LEFT JOIN backfill_progress AS p USING (user_address)
WHERE p.user_address IS NULL OR p.window_end_ms IS NULL
    OR NOT (p.completed OR (p.completed_at IS NOT NULL AND p.cursor_ms = p.window_end_ms - 1))
ORDER BY named.user_address;
