-- The upkeep goes on in a database that nobody tends: a job of TimescaleDB's, which gives way to running workers.
DO $$
BEGIN
    PERFORM add_job('backfill_upkeep', interval '1 hour', initial_start => now() + interval '1 hour');
    INSERT INTO backfill_arranged (what, fills) VALUES ('upkeep job', 'fills'::regclass) ON CONFLICT DO NOTHING;
END
$$;
