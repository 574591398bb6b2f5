-- File $1 is anybody's again.
SELECT pg_advisory_unlock(1447643473, hashtext($1));
