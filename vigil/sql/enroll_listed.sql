-- Users named by hand become known.
INSERT INTO backfill_progress (user_address) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING;
