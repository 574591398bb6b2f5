-- What keeps a hypertable in shape (vigil/hypertable.py, upkeep.py). All of it exists on plain Postgres too, and says
-- there that nothing is to be done: TimescaleDB's names stand in bodies only, which are looked at when they run.

-- What has been set up once for the table `fills` of that oid. Whoever takes it away again has decided so.
CREATE TABLE backfill_arranged (
    what        text NOT NULL,
    fills       oid NOT NULL,
    arranged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (what, fills)
);

-- How `fills` and what hangs on it stand: vigil.hypertable.Shape.
-- daily: none; ours, of this very `fills`; stray, ours but of another table; foreign.
CREATE FUNCTION backfill_shape(
    OUT timescaledb boolean, OUT community boolean, OUT is_table boolean, OUT hypertable boolean,
    OUT columnstore boolean, OUT columnstore_policy integer, OUT daily text, OUT daily_aggregate boolean,
    OUT upkeep_job integer, OUT arranged text[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    table_oid oid := to_regclass('fills');
    daily_oid oid := to_regclass('fills_daily');
    source_oid oid;
BEGIN
    timescaledb := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    community := timescaledb AND coalesce(current_setting('timescaledb.license', true) = 'timescale', false);
    is_table := EXISTS (SELECT FROM pg_class WHERE oid = table_oid AND relkind IN ('r', 'p'));
    hypertable := false;
    columnstore := false;
    daily_aggregate := false;
    arranged := ARRAY (SELECT what FROM backfill_arranged WHERE fills = table_oid);
    IF timescaledb THEN
        SELECT true, h.compression_enabled INTO hypertable, columnstore
        FROM timescaledb_information.hypertables AS h
        WHERE format('%I.%I', h.hypertable_schema, h.hypertable_name)::regclass = table_oid;
        hypertable := coalesce(hypertable, false);
        columnstore := coalesce(columnstore, false);
        SELECT true, format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass INTO daily_aggregate, source_oid
        FROM timescaledb_information.continuous_aggregates AS c
        WHERE format('%I.%I', c.view_schema, c.view_name)::regclass = daily_oid;
        daily_aggregate := coalesce(daily_aggregate, false);
        SELECT
            min(j.job_id) FILTER (WHERE j.hypertable_name IS NOT NULL),
            min(j.job_id) FILTER (WHERE j.hypertable_name IS NULL)
        INTO columnstore_policy, upkeep_job
        FROM timescaledb_information.jobs AS j
        WHERE (j.proc_name = 'backfill_upkeep' AND j.hypertable_name IS NULL)
            OR (
                j.proc_name LIKE 'policy\_%compression'
                AND to_regclass(quote_ident(j.hypertable_schema) || '.' || quote_ident(j.hypertable_name)) = table_oid
            );
    END IF;
    daily := CASE
        WHEN daily_oid IS NULL THEN 'none'
        WHEN coalesce(obj_description(daily_oid, 'pg_class') NOT LIKE '%written by vigil-backfill', true) THEN 'foreign'
        WHEN source_oid = table_oid OR EXISTS (
            SELECT FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            WHERE r.ev_class = daily_oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = table_oid
        ) THEN 'ours'
        ELSE 'stray'
    END;
END
$$;

-- Days that `fills_daily` has not been brought up to date for, in time order. stale: those it answers for all the
-- same, from before (the others it adds up when asked); NULL: that can't be told. A plain view is always right.
CREATE FUNCTION backfill_daily_behind() RETURNS TABLE (from_time timestamptz, until_time timestamptz, stale boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    aggregate record;
    today timestamptz := date_trunc('day', now(), 'UTC');
    seen tstzmultirange;  -- where there can be rows: in the chunks, and no day that is not over yet; nothing else is refreshed
    told timestamptz;
BEGIN
    IF (SELECT daily <> 'ours' OR NOT daily_aggregate FROM backfill_shape()) THEN
        RETURN;
    END IF;
    SELECT
        range_agg(
            tstzrange(
                date_trunc('day', c.range_start, 'UTC'),
                date_trunc('day', c.range_end - interval '1 microsecond', 'UTC') + interval '1 day'
            )
        ) * tstzmultirange(tstzrange('-infinity', today))
    INTO seen
    FROM timescaledb_information.chunks AS c
    WHERE format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass = to_regclass('fills')
        AND c.range_start < today
    HAVING count(*) > 0;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT c.mat_hypertable_id, c.raw_hypertable_id INTO aggregate
    FROM _timescaledb_catalog.continuous_agg AS c
    WHERE format('%I.%I', c.user_view_schema, c.user_view_name)::regclass = to_regclass('fills_daily');
    told := coalesce(
        _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(aggregate.mat_hypertable_id)),
        '-infinity'
    );
    RETURN QUERY
    WITH invalid AS (
        SELECT range_agg(
            tstzrange(
                _timescaledb_functions.to_timestamp(lowest),
                _timescaledb_functions.to_timestamp(greatest) + interval '1 microsecond'  -- it is one of them
            )
        ) * seen AS spans
        FROM (
            SELECT lowest_modified_value, greatest_modified_value
            FROM _timescaledb_catalog.continuous_aggs_hypertable_invalidation_log
            WHERE hypertable_id = aggregate.raw_hypertable_id
            UNION ALL
            SELECT lowest_modified_value, greatest_modified_value
            FROM _timescaledb_catalog.continuous_aggs_materialization_invalidation_log
            WHERE materialization_id = aggregate.mat_hypertable_id
        ) AS log (lowest, greatest)
    ),
    days AS (
        SELECT range_agg(
            tstzrange(
                date_trunc('day', lower(span), 'UTC'),
                date_trunc('day', upper(span) - interval '1 microsecond', 'UTC') + interval '1 day'
            )
        ) AS spans
        FROM invalid CROSS JOIN LATERAL unnest(invalid.spans) AS span
    )
    SELECT lower(span), upper(span), part.stale
    FROM days
    CROSS JOIN LATERAL (
        VALUES
            (days.spans * tstzmultirange(tstzrange('-infinity', told)), true),
            (days.spans * tstzmultirange(tstzrange(told, 'infinity')), false)
    ) AS part (spans, stale)
    CROSS JOIN LATERAL unnest(part.spans) AS span
    ORDER BY 1;
EXCEPTION WHEN undefined_table OR undefined_column OR undefined_function THEN
    -- A version of TimescaleDB that keeps its books elsewhere: all may be behind, and what is not costs little.
    RETURN QUERY SELECT lower(span), upper(span), NULL::boolean FROM unnest(seen) AS span;
END
$$;

-- How many workers live: a valid lease, and a session that holds the worker's lock.
CREATE FUNCTION backfill_workers_alive() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM backfill_workers
    WHERE lease_expires_at >= now() AND EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
            AND (classid::bigint << 32 | objid::bigint) = worker_id
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
$$;

-- Where a backfill may still add rows: what lies before this. NULL: no user is to be read any more.
CREATE FUNCTION backfill_unread_until() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM backfill_progress WHERE state IN ('pending', 'claimed') AND window_end_ms IS NULL)
            THEN timestamptz 'infinity'
        ELSE (
            SELECT timestamptz 'epoch' + max(window_end_ms) * interval '1 millisecond'
            FROM backfill_progress
            WHERE state IN ('pending', 'claimed')
        )
    END
$$;

-- Chunks that could be in the columnstore but are not, or not whole since rows were added to them, in time order.
-- waits: a user that is still to be read may have rows there. Recent ones are left out: they are still being written.
CREATE FUNCTION backfill_loose_chunks()
RETURNS TABLE (chunk text, from_time timestamptz, until_time timestamptz, bytes bigint, partial boolean, waits boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    shape record := backfill_shape();
    unread_until timestamptz;
BEGIN
    IF NOT shape.columnstore OR shape.columnstore_policy IS NOT NULL THEN
        RETURN;
    END IF;
    unread_until := coalesce(backfill_unread_until(), '-infinity');
    RETURN QUERY
    SELECT
        format('%I.%I', c.chunk_schema, c.chunk_name), c.range_start, c.range_end,
        pg_total_relation_size(format('%I.%I', c.chunk_schema, c.chunk_name)::regclass),
        c.is_compressed,
        c.range_start < unread_until
    FROM timescaledb_information.chunks AS c
    JOIN _timescaledb_catalog.chunk AS state ON state.schema_name = c.chunk_schema AND state.table_name = c.chunk_name
    WHERE format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass = to_regclass('fills')
        AND c.range_end <= now() - interval '7 days'
        AND state.status & 4 = 0                             -- frozen
        AND (state.status & 1 = 0 OR state.status & 10 <> 0) -- not compressed; or unordered or partial since
        AND NOT state.osm_chunk
    ORDER BY c.range_start;
END
$$;

-- The steps of the upkeep, each a transaction (or two) that may be interrupted and done again.
CREATE PROCEDURE backfill_refresh_daily(from_time timestamptz, until_time timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    CALL refresh_continuous_aggregate('fills_daily', from_time, until_time);
END
$$;

CREATE FUNCTION backfill_compress_chunk(chunk text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM compress_chunk(chunk::regclass, if_not_compressed => true);
END
$$;

-- Months of which `fills_daily` is behind. Oldest first, and that is what keeps it right: what lies before the newest
-- day refreshed is answered from what was refreshed, whether it ever was or not.
CREATE FUNCTION backfill_months_behind() RETURNS TABLE (from_time timestamptz, until_time timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT
        month AT TIME ZONE 'UTC',
        least((month + interval '1 month') AT TIME ZONE 'UTC', date_trunc('day', now(), 'UTC'))
    FROM (
        SELECT DISTINCT month
        FROM backfill_daily_behind() AS behind
        CROSS JOIN generate_series(
            date_trunc('month', behind.from_time AT TIME ZONE 'UTC'),
            behind.until_time AT TIME ZONE 'UTC' - interval '1 microsecond', interval '1 month'
        ) AS month
    ) AS months
    ORDER BY 1
$$;

-- The whole upkeep, for the job of a database that nobody tends; gives way to a worker between any two steps.
CREATE PROCEDURE backfill_upkeep(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    step record;
    last text := '';
    until timestamptz := '-infinity';
BEGIN
    LOOP
        IF backfill_workers_alive() > 0 OR NOT pg_try_advisory_xact_lock(1447643471, 0) THEN
            RETURN;
        END IF;
        SELECT * INTO step FROM backfill_months_behind() AS m WHERE m.until_time > until ORDER BY 1 LIMIT 1;
        EXIT WHEN NOT FOUND;
        until := step.until_time;
        CALL backfill_refresh_daily(step.from_time, step.until_time);
        COMMIT;
    END LOOP;
    until := '-infinity';
    LOOP
        IF backfill_workers_alive() > 0 OR NOT pg_try_advisory_xact_lock(1447643471, 0) THEN
            RETURN;
        END IF;
        SELECT * INTO step FROM backfill_loose_chunks() AS l
        WHERE NOT l.waits AND l.until_time > until ORDER BY l.from_time LIMIT 1;
        EXIT WHEN NOT FOUND;
        until := step.until_time;
        BEGIN
            PERFORM backfill_compress_chunk(step.chunk);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'vigil: % stays as it is: %', step.chunk, SQLERRM;
        END;
        COMMIT;
    END LOOP;
END
$$;
