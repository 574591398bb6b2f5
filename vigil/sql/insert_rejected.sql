-- Rows that could not become a fill; served again, they are counted once.
WITH inserted AS (
    INSERT INTO rejected_fills (user_address, raw_sha256, raw, reason, time_ms)
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::bigint[])
    ON CONFLICT (user_address, raw_sha256) DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM inserted;
