-- Unique indexes of `fills` that would refuse rows which are fills of their own: on columns of ours ($1) alone, and not on
-- the whole key.
SELECT x.relname::text AS name
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text) AS names
    FROM pg_attribute AS a
    WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[])
) AS columns
WHERE i.indrelid = to_regclass('fills') AND i.indisunique
    AND columns.names <@ $1::text[]
    AND (i.indpred IS NOT NULL OR NOT columns.names @> ARRAY['user_address', 'time', 'coin', 'oid', 'tid', 'side'])
ORDER BY 1;
