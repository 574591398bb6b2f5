-- Files that file $1 (name) of $2 bytes may be, or may have grown from, read with scope $3 or in full: those of its name,
-- and complete ones of its size. The most advanced first.
SELECT file_id, name, size_bytes, version, scope, bytes_done, lines_done, prefix_digest, complete
FROM backfill_files
WHERE (name = $1 OR (complete AND size_bytes = $2)) AND scope IN ('', $3) AND bytes_done > 0
ORDER BY bytes_done DESC, (name = $1) DESC, file_id
LIMIT 20;
