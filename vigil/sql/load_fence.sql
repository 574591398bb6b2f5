-- First statement of every batch: does file $1 still belong to loader $2, and how far is it? Held until the commit.
SELECT bytes_done, lines_done, complete FROM backfill_files WHERE file_id = $1 AND loader = $2 FOR NO KEY UPDATE;
