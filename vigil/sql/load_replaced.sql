-- File $1 has grown into file $2, whose row tells all of it now.
DELETE FROM backfill_files WHERE file_id = $1 AND file_id <> $2;
