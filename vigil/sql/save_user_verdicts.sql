-- The verdicts on users: $1 addresses, $2 verdicts, $3 causes (JSON), $4 why, $5 notional, $6 rows after the window;
-- $7: whose TWAP slices might explain what is wrong, so that they are to be read next.
UPDATE backfill_progress AS p SET
    verdict = told.verdict::backfill_verdict,
    verdict_causes = ARRAY(SELECT jsonb_array_elements_text(told.causes::jsonb)),
    verdict_why = told.why,
    judged_at = now(),
    notional = told.notional,
    rows_after_window = told.rows_after_window,
    slices_wanted = p.slices_wanted OR told.ask,
    completed = NOT told.ask,
    completed_at = CASE WHEN NOT told.ask THEN p.completed_at END,
    updated_at = now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::numeric[], $6::bigint[], $7::boolean[])
    AS told (user_address, verdict, causes, why, notional, rows_after_window, ask)
WHERE p.user_address = told.user_address;
