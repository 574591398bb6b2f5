-- The columns of the table $1. unique_default: its default differs from row to row (a surrogate key, the time of insertion).
SELECT
    a.attname::text AS name,
    format_type(a.atttypid, NULL) AS type,
    t.typcategory::text AS category,
    a.atttypmod <> -1 AS modifier,
    a.attnotnull AS not_null,
    a.atthasdef OR a.attidentity <> '' AS has_default,
    a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) ~* '(nextval|uuid|now|timestamp|localtime|current_)', false)
        AS unique_default,
    a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
    a.attcollation = 0 OR EXISTS (
        SELECT FROM pg_collation AS l
        WHERE l.oid = a.attcollation AND l.collname = 'C' AND l.collnamespace = 'pg_catalog'::regnamespace
    ) AS c_collation
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;
