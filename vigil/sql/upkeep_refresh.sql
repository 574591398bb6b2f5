-- Bring `fills_daily` up to date for [$1, $2). Not to be run inside of a transaction.
CALL backfill_refresh_daily($1, $2);
