-- Columns that `fills` demands a value for and we know nothing of ($1: those we know).
SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass('fills') AND attnum > 0 AND NOT attisdropped
    AND attnotnull AND NOT atthasdef AND attidentity = '' AND attname <> ALL ($1::text[]);
