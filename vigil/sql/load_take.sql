-- File $1 (name), $2 bytes, version $3, scope $4 is loader $5's now; it stands where it was left, if it was begun.
INSERT INTO backfill_files (name, size_bytes, version, scope, loader) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name, size_bytes, version, scope) DO UPDATE SET loader = excluded.loader, updated_at = now()
RETURNING file_id, bytes_done, lines_done, prefix_digest, complete;
