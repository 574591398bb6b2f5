-- First statement of every batch, and of every claim: does the worker still live in everyone's eyes? Held until
-- the commit, so that nobody can bury it meanwhile; its lease can be renewed. No row: another took over.
SELECT committed_batch FROM backfill_workers WHERE worker_id = $1 FOR KEY SHARE;
