-- Whether this session is the one that tends the database: it takes the lock of that name and keeps it as long as it lives.
SELECT pg_try_advisory_lock(1447643471, 0);
