-- Why file $1 of loader $2 can't be read.
UPDATE backfill_files SET error = $3, updated_at = now() WHERE file_id = $1 AND loader = $2;
