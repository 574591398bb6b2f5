-- How chunks of `fills` are packed, once they are: one user's rows together, in the order of the key. It packs nothing yet.
DO $$
BEGIN
    ALTER TABLE fills SET (
        timescaledb.compress,
        timescaledb.compress_segmentby = 'user_address',
        timescaledb.compress_orderby = 'time, coin, oid, tid, side'
    );
    INSERT INTO backfill_arranged (what, fills) VALUES ('columnstore', 'fills'::regclass) ON CONFLICT DO NOTHING;
END
$$;
