-- The columns of `fills` and their types without modifiers. A user's rows are found by comparing with COLLATE "C":
-- without it on the column no index would serve, and each batch would read the whole table.
SELECT
    attname::text,
    format_type(atttypid, NULL)
        || CASE WHEN atttypmod <> -1 THEN ' with a modifier' ELSE '' END
        || CASE
            WHEN attname = 'user_address' AND attcollation <> 0 AND attcollation <> 'pg_catalog."C"'::regcollation
                THEN ' without COLLATE "C"'
            ELSE ''
        END AS type
FROM pg_attribute
WHERE attrelid = to_regclass('fills') AND attnum > 0 AND NOT attisdropped;
