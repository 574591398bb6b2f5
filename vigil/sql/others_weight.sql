-- Weight a period that workers other than $1 (and its lanes) may spend by now.
SELECT coalesce(sum(share_weight), 0)::bigint FROM backfill_workers WHERE worker_id <> ALL ($1::bigint[]);
