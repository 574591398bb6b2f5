-- Whether a unique index on exactly the key's columns exists, in any order, by which a conflict can be resolved: no
-- column that is merely included, no expression beside them, not deferrable.
SELECT EXISTS (
    SELECT FROM pg_index AS i
    WHERE i.indrelid = to_regclass('fills') AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
        AND i.indnkeyatts = 6 AND i.indnatts = 6
        AND (
            SELECT array_agg(a.attname::text ORDER BY a.attname)
            FROM pg_attribute AS a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[])
        ) = ARRAY['coin', 'oid', 'side', 'tid', 'time', 'user_address']
);
