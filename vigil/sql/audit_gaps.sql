-- The gaps recorded of user $1.
SELECT from_ms, to_ms, kind FROM backfill_gaps WHERE user_address = $1 ORDER BY from_ms, to_ms, kind;
