-- Where and when the report is made.
SELECT
    now() AS made_at,
    current_database()::text AS name,
    current_setting('server_version') AS server,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb;
