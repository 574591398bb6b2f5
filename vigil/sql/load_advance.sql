-- Last statement of every batch: file $1 is in up to $2 bytes, $3 lines, whose digest is $4; $5 to $10: rows received,
-- inserted, updated, there already, rejected, passed over; $11 whether that is all of it, $12 what is wrong with the rest.
UPDATE backfill_files SET
    bytes_done = $2,
    lines_done = $3,
    prefix_digest = $4,
    received = received + $5,
    inserted = inserted + $6,
    updated = updated + $7,
    already_there = already_there + $8,
    rejected = rejected + $9,
    passed_over = passed_over + $10,
    complete = $11,
    error = $12,
    finished_at = CASE WHEN $11 THEN now() END,
    updated_at = now()
WHERE file_id = $1;
