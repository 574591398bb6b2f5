-- How many rows the planner expects an export to have.
EXPLAIN (FORMAT JSON)
SELECT FROM fills
WHERE ($1::timestamptz IS NULL OR time >= $1)
    AND ($2::timestamptz IS NULL OR time < $2)
    AND ($3::text[] IS NULL OR user_address = ANY ($3));
