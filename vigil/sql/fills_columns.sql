-- The columns of `fills` and their types without modifiers.
SELECT attname::text, format_type(atttypid, NULL) || CASE WHEN atttypmod <> -1 THEN ' with a modifier' ELSE '' END AS type
FROM pg_attribute
WHERE attrelid = to_regclass('fills') AND attnum > 0 AND NOT attisdropped;
