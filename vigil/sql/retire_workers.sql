-- These workers are no more; release_orphans.sql frees what they still held.
DELETE FROM backfill_workers WHERE worker_id = ANY ($1::bigint[]);
