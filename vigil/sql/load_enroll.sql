-- The users $1 (sorted, so that loads side by side can't wait for one another in a circle) become known. Those that are
-- known already are not even tried: a conflict with a row that somebody is changing would wait for that.
INSERT INTO backfill_progress (user_address)
SELECT told.user_address
FROM unnest($1::text[]) WITH ORDINALITY AS told (user_address, place)
WHERE NOT EXISTS (SELECT FROM backfill_progress AS p WHERE p.user_address = told.user_address)
ORDER BY place
ON CONFLICT DO NOTHING;
