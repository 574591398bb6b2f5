-- The same among the users $1.
SELECT count(*) FROM backfill_progress WHERE state = 'failed' AND user_address = ANY ($1::text[]);
