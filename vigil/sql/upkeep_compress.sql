-- Pack the chunk $1, or what was added to it since it was packed.
SELECT backfill_compress_chunk($1);
