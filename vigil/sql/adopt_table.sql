-- The table $1 as a whole: kind, schema, rights, the server's estimates of rows and bytes, what hangs on it.
WITH RECURSIVE parts AS (
    SELECT to_regclass($1)::oid AS oid
    UNION
    SELECT i.inhrelid FROM pg_inherits AS i JOIN parts ON parts.oid = i.inhparent
)
SELECT
    c.oid AS oid,
    c.relkind::text AS kind,
    n.nspname::text AS schema,
    current_schema()::text AS current_schema,
    pg_has_role(c.relowner, 'USAGE') AS owned,
    has_schema_privilege(n.oid, 'CREATE') AS may_create,
    greatest((SELECT sum(greatest(p.reltuples, 0)) FROM parts JOIN pg_class AS p USING (oid) WHERE p.relkind = 'r'), 0)::bigint AS rows,
    (SELECT sum(pg_table_size(parts.oid)) FROM parts)::bigint AS bytes,
    EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) OR (SELECT count(*) FROM parts) > 1 AS inherits,
    c.relrowsecurity AS row_security,
    EXISTS (SELECT FROM parts JOIN pg_class AS p USING (oid) WHERE p.relpersistence = 'u') AS unlogged,
    ARRAY (
        SELECT DISTINCT v.oid::regclass::text
        FROM pg_depend AS d
        JOIN pg_rewrite AS r ON r.oid = d.objid
        JOIN pg_class AS v ON v.oid = r.ev_class
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
            AND v.oid <> c.oid
    ) AS views,
    ARRAY (SELECT conname::text FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f' ORDER BY 1) AS foreign_keys,
    ARRAY (SELECT conname::text FROM pg_constraint WHERE conrelid = c.oid AND contype IN ('c', 'x') ORDER BY 1) AS checks,
    ARRAY (
        SELECT tgname::text FROM pg_trigger
        WHERE tgrelid = c.oid AND NOT tgisinternal AND tgname <> 'ts_insert_blocker' ORDER BY 1
    ) AS triggers
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1);
