-- What became of the lanes of worker $1 on host $2: one element a sample of $3 ends, $4 lanes, $5 seconds, $6 allowed
-- and $7 spent weight, $8 requests, $9 pauses, $10 inserted, $11 received rows, $12 users done, $13 failed, $14 faults
-- (JSON). A sample that is there already was told before, by a COMMIT whose answer was lost.
INSERT INTO backfill_samples (
    worker_id, host, at, lane, seconds, allowed_weight, spent_weight, requests, pauses, inserted, received, users_done,
    users_failed, faults
)
SELECT
    $1, $2, told.at, told.lane, told.seconds, told.allowed, told.spent, told.requests, told.pauses, told.inserted,
    told.received, told.users_done, told.users_failed, told.faults::jsonb
FROM unnest(
    $3::timestamptz[], $4::text[], $5::real[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
    $11::bigint[], $12::bigint[], $13::bigint[], $14::text[]
) AS told (
    at, lane, seconds, allowed, spent, requests, pauses, inserted, received, users_done, users_failed, faults
)
ON CONFLICT (worker_id, lane, at) DO NOTHING;
