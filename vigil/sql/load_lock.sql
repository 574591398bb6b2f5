-- Whether file $1 is this session's to load: the lock falls with the session, so that a crash frees the file.
SELECT pg_try_advisory_lock(1447643473, hashtext($1));
