-- What people ask first: volume, fees and closed P&L by UTC day, user and coin (fees are in various tokens, which can't
-- be added up). A continuous aggregate where `fills` is a hypertable of TimescaleDB's community edition, else a plain
-- view of the same columns; one of ours that no longer fits is replaced, and who might read it still may.
DO $$
DECLARE
    shape record := backfill_shape();
    as_aggregate boolean := shape.hypertable AND shape.community;
    old oid := to_regclass('fills_daily');
    granted record;
    readers text[] := '{}';
BEGIN
    IF old IS NOT NULL THEN
        FOR granted IN
            SELECT acl.grantee, acl.privilege_type, acl.is_grantable
            FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
            WHERE c.oid = old AND acl.grantee <> c.relowner
        LOOP
            readers := readers || format(
                'GRANT %s ON fills_daily TO %s%s', granted.privilege_type,
                CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,
                CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            );
        END LOOP;
        IF shape.daily_aggregate THEN
            DROP MATERIALIZED VIEW fills_daily;
        ELSE
            DROP VIEW fills_daily;
        END IF;
    END IF;
    EXECUTE format(
        $view$
            CREATE %s AS
            SELECT
                %s AS day, user_address, coin, fee_token,
                count(*) AS fills,
                sum(px * sz) AS volume,
                coalesce(sum(px * sz) FILTER (WHERE crossed), 0) AS taker_volume,
                sum(fee) AS fees,
                sum(closed_pnl) AS closed_pnl
            FROM fills
            GROUP BY 1, 2, 3, 4
            %s
        $view$,
        CASE
            WHEN as_aggregate
                THEN 'MATERIALIZED VIEW fills_daily WITH (timescaledb.continuous, timescaledb.materialized_only = false)'
            ELSE 'VIEW fills_daily'
        END,
        CASE
            WHEN as_aggregate THEN $bucket$time_bucket('1 day', time)$bucket$
            ELSE $bucket$date_bin('1 day', time, timestamptz '2000-01-01 00:00:00+00')$bucket$
        END,
        CASE WHEN as_aggregate THEN 'WITH NO DATA' ELSE '' END
    );
    COMMENT ON VIEW fills_daily IS 'Fills by UTC day, user, coin and fee token; written by vigil-backfill';
    FOR i IN 1 .. cardinality(readers) LOOP
        EXECUTE readers[i];
    END LOOP;
    INSERT INTO backfill_arranged (what, fills)
    VALUES (CASE WHEN as_aggregate THEN 'daily aggregate' ELSE 'daily view' END, 'fills'::regclass)
    ON CONFLICT DO NOTHING;
END
$$;
