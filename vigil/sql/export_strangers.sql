-- Which of the users named are neither known nor have a row. (LIMIT keeps it a look into the index for each.)
WITH unknown AS MATERIALIZED (
    SELECT user_address FROM unnest($1::text[]) AS named (user_address)
    WHERE NOT EXISTS (SELECT FROM backfill_progress AS p WHERE p.user_address = named.user_address)
)
SELECT user_address FROM unknown
WHERE (SELECT 1 FROM fills AS f WHERE f.user_address = unknown.user_address LIMIT 1) IS NULL
ORDER BY user_address;
