-- The database's time: the one clock that all workers have in common.
SELECT clock_timestamp();
