-- The server frees this lock the moment the worker's session ends, however it ended.
SELECT pg_try_advisory_lock($1);
