-- The same of the users $1, with $2 tries.
UPDATE backfill_progress SET failed_at = NULL, updated_at = now()
WHERE user_address = ANY ($1::text[]) AND state = 'failed' AND attempts < $2;
