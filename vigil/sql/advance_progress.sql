-- The users of a batch move on, in the transaction that holds their fills. Every column is either
-- absolute or counts rows inserted by this very transaction, so a batch applied twice counts once.
-- $1 worker, then one array element a user: $2 address, $3 cursor, $4 done, $5 inserted, $6 oldest,
-- $7 newest fill (ms), $8 error, $9 released, $10 whether it is of the list of TWAP slices, $11 lifetime volume; $12 whether the source keeps every fill there was.
-- Done with the fills is done with the user only where its TWAP slices are not wanted too.
UPDATE backfill_progress AS p SET
    cursor_ms = CASE
        WHEN b.slices THEN p.cursor_ms
        WHEN b.done AND p.until_ms IS NOT NULL THEN p.window_end_ms
        ELSE coalesce(b.cursor_ms, p.cursor_ms)
    END,
    slices_cursor_ms = CASE WHEN b.slices THEN coalesce(b.cursor_ms, p.slices_cursor_ms) ELSE p.slices_cursor_ms END,
    until_ms = CASE WHEN NOT b.finished THEN p.until_ms END,
    sources = CASE
        WHEN b.done AND NOT b.slices AND p.source <> ALL (p.sources) THEN p.sources || p.source
        ELSE p.sources
    END,
    uncapped = p.uncapped OR (b.done AND NOT b.slices AND $12),
    completed = b.finished,
    completed_at = CASE WHEN b.finished THEN now() END,
    fills_count = p.fills_count + b.inserted,
    oldest_fill_time = least(p.oldest_fill_time, b.oldest),
    newest_fill_time = CASE WHEN b.slices THEN p.newest_fill_time ELSE greatest(p.newest_fill_time, b.newest) END,
    attempts = CASE WHEN b.done THEN 0 ELSE p.attempts + (b.error IS NOT NULL)::int END,
    failed_at = CASE WHEN b.error IS NOT NULL THEN now() END,
    last_error = coalesce(b.error, CASE WHEN NOT b.done THEN p.last_error END),
    claimed_by = CASE WHEN NOT b.done AND b.error IS NULL AND NOT b.released THEN p.claimed_by END,
    lifetime_volume = coalesce(b.volume, p.lifetime_volume),
    updated_at = now()
FROM (
    SELECT
        told.*,
        told.done AND (
            told.slices OR NOT progress.slices_wanted
            OR coalesce(progress.slices_cursor_ms >= progress.window_end_ms, false)
        ) AS finished
    FROM unnest(
        $2::text[], $3::bigint[], $4::boolean[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::boolean[],
        $10::boolean[], $11::numeric[]
    ) AS told (user_address, cursor_ms, done, inserted, oldest, newest, error, released, slices, volume)
    JOIN backfill_progress AS progress USING (user_address)
) AS b
WHERE p.user_address = b.user_address AND p.claimed_by = $1;
