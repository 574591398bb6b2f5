-- The server may believe in a session that we gave up; its locks would block the one that follows it.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND application_name = current_setting('application_name') AND usename = current_user;
