-- The unique indexes of the table $1, and the foreign keys of other tables that need them.
SELECT
    x.relname::text AS name,
    CASE WHEN 0 = ANY (i.indkey::smallint[]) THEN '{}'::text[] ELSE ARRAY (
        SELECT a.attname::text
        FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS part (attnum, place)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = part.attnum
        WHERE part.place <= i.indnkeyatts
        ORDER BY part.place
    ) END AS columns,
    EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x')) AS constraint,
    i.indpred IS NOT NULL OR NOT i.indimmediate AS partial,
    i.indisvalid AS valid,
    ARRAY (
        SELECT format('%s of %s', conname, conrelid::regclass) FROM pg_constraint
        WHERE conindid = i.indexrelid AND contype = 'f'
    ) AS referenced_by
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1) AND (i.indisunique OR i.indisexclusion)
ORDER BY 1;
