-- Chunks to pack, oldest first; waits: users that are still to be read may have rows there.
SELECT chunk, from_time, until_time, bytes, partial, waits FROM backfill_loose_chunks() ORDER BY from_time;
