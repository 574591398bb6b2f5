-- The same of a hypertable, where each step of that walk would look into every chunk: see enroll_from_chunks.sql.
WITH strangers AS MATERIALIZED (
    SELECT user_address FROM (SELECT DISTINCT user_address FROM fills) AS found
    EXCEPT SELECT user_address FROM backfill_progress
)
SELECT count(DISTINCT lower(user_address)) FROM strangers
WHERE lower(user_address) ~ '^0x[0-9a-f]{40}$'
    AND NOT EXISTS (SELECT FROM backfill_progress AS p WHERE p.user_address = lower(strangers.user_address));
