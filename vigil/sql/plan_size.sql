-- Rows of `fills` outside the columnstore, as they were counted last, and their bytes with indexes. Parts that have grown or
-- shrunk a lot since then (those that were packed) do not count.
WITH parts AS (
    SELECT to_regclass('fills')::oid AS part
    UNION ALL
    SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('fills')
)
SELECT coalesce(sum(c.reltuples), 0)::double precision AS rows,
    coalesce(sum(pg_total_relation_size(c.oid)), 0)::double precision AS bytes
FROM parts JOIN pg_class AS c ON c.oid = parts.part
WHERE c.reltuples > 0
    AND pg_relation_size(c.oid) / current_setting('block_size')::integer BETWEEN c.relpages * 0.8 AND c.relpages * 1.25;
