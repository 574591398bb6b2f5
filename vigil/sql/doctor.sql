-- What a run needs of the server, in one row.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    clock_timestamp() AS now,
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        AS max_connections,
    -- Of others' sessions an ordinary role is not told what they are: those of no database are the server's own.
    (SELECT count(*)::integer FROM pg_stat_activity WHERE datid IS NOT NULL) AS connections,
    current_user::text AS role,
    has_schema_privilege('public', 'CREATE') AS may_create,
    has_database_privilege(current_database(), 'TEMPORARY') AS may_temporary,
    pg_database_size(current_database()) AS database_bytes;
