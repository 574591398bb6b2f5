-- Whether this session is the one that estimates: it takes the lock of that name and keeps it as long as it lives.
SELECT pg_try_advisory_lock(1447643470, 0);
