-- The users of a batch move on, in the transaction that holds their fills. Every column is either
-- absolute or counts rows inserted by this very transaction, so a batch applied twice counts once.
-- $1 worker, then one array element a user: $2 address, $3 cursor, $4 done, $5 inserted, $6 oldest,
-- $7 newest fill (ms), $8 error, $9 released
UPDATE backfill_progress AS p SET
    cursor_ms = coalesce(b.cursor_ms, p.cursor_ms),
    completed = b.done,
    completed_at = CASE WHEN b.done THEN now() END,
    fills_count = p.fills_count + b.inserted,
    oldest_fill_time = least(p.oldest_fill_time, b.oldest),
    newest_fill_time = coalesce(b.newest, p.newest_fill_time),
    attempts = CASE WHEN b.done THEN 0 ELSE p.attempts + (b.error IS NOT NULL)::int END,
    failed_at = CASE WHEN b.error IS NOT NULL THEN now() END,
    last_error = coalesce(b.error, CASE WHEN NOT b.done THEN p.last_error END),
    claimed_by = CASE WHEN NOT b.done AND b.error IS NULL AND NOT b.released THEN p.claimed_by END,
    updated_at = now()
FROM unnest($2::text[], $3::bigint[], $4::boolean[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::boolean[])
    AS b (user_address, cursor_ms, done, inserted, oldest, newest, error, released)
WHERE p.user_address = b.user_address AND p.claimed_by = $1;
