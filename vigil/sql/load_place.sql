-- File $1 of loader $2 goes on at $3 bytes, $4 lines with digest $5: 0 to read it anew, or where a file of the same
-- beginning ($6) was left, with what that counted, if that is another one.
UPDATE backfill_files AS f SET
    bytes_done = $3,
    lines_done = $4,
    prefix_digest = $5,
    received = coalesce(old.received, 0),
    inserted = coalesce(old.inserted, 0),
    updated = coalesce(old.updated, 0),
    already_there = coalesce(old.already_there, 0),
    rejected = coalesce(old.rejected, 0),
    passed_over = coalesce(old.passed_over, 0),
    complete = false,
    finished_at = NULL,
    error = NULL,
    updated_at = now()
FROM (SELECT 1) AS one
LEFT JOIN backfill_files AS old ON old.file_id = $6
WHERE f.file_id = $1 AND f.loader = $2;
