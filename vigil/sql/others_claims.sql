-- Whether users of share $3 of $2 (among $4, NULL: all) are in other hands than worker $1's.
SELECT EXISTS (
    SELECT FROM backfill_progress
    WHERE claimed_by IS NOT NULL AND claimed_by <> $1 AND shard % $2 = $3
        AND ($4::text[] IS NULL OR user_address = ANY ($4))
);
