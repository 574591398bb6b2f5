-- What is no count: when this is, the oldest fill (the first entry of an index), and whether TimescaleDB is there.
SELECT
    now() AS at,
    (SELECT min(oldest_fill_time) FROM backfill_progress) AS oldest_fill_time,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb;
