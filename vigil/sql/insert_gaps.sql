-- Spans in which the walk knows that rows may be missing.
INSERT INTO backfill_gaps (user_address, from_ms, to_ms, kind)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[])
ON CONFLICT DO NOTHING;
