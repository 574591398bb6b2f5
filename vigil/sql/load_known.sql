-- What is known of the files $1 (names), $2 (sizes), $3 (versions), read with scope $4 or in full: complete as they lie
-- there, and how far otherwise.
SELECT told.name, told.size_bytes, told.version, f.complete, f.bytes_done, f.lines_done
FROM unnest($1::text[], $2::bigint[], $3::text[]) AS told (name, size_bytes, version)
JOIN backfill_files AS f USING (name, size_bytes, version)
WHERE f.scope IN ('', $4);
