-- Within the window: spans recorded in which rows may be missing, and rows that could not be stored as fills.
SELECT
    (
        SELECT count(*) FROM backfill_gaps
        WHERE ($1::bigint IS NULL OR to_ms >= $1) AND ($2::bigint IS NULL OR from_ms < $2)
            AND ($3::text[] IS NULL OR user_address = ANY ($3))
    ) AS gaps,
    (
        SELECT count(*) FROM rejected_fills
        WHERE ($1::bigint IS NULL OR coalesce(time_ms, $1) >= $1) AND ($2::bigint IS NULL OR time_ms IS NULL OR time_ms < $2)
            AND ($3::text[] IS NULL OR user_address = ANY ($3))
    ) AS rejected_rows;
