-- Whether any of the shards [$2, $3) were completed by another run for a narrower window than [$4, $5), and whether any
-- are in other hands than worker $1's, still to be read from source $6 ($7: it serves TWAP slices too), locked by somebody
-- for the moment, or without a verdict yet, which may ask for more. Not those that wait for another source: it may take its
-- time. Each question has its index, which the ORDER BY holds it to: where the answer is no, the planner's bet on an early
-- yes reads the whole table.
SELECT
    (
        SELECT true FROM backfill_progress
        WHERE state = 'completed' AND cursor_ms < $5 AND shard >= $2 AND shard < $3
        ORDER BY cursor_ms
        LIMIT 1
    ) IS TRUE
    OR (
        SELECT true FROM backfill_progress
        WHERE state = 'completed' AND window_start_ms > $4 AND shard >= $2 AND shard < $3
        ORDER BY window_start_ms
        LIMIT 1
    ) IS TRUE AS narrower,
    (
        SELECT true FROM backfill_progress
        WHERE claimed_by IS NOT NULL AND claimed_by <> $1 AND shard >= $2 AND shard < $3
            AND (until_ms IS NULL OR source = $6)
        ORDER BY claimed_by
        LIMIT 1
    ) IS TRUE
    OR (
        SELECT true FROM backfill_progress
        WHERE state = 'pending' AND shard >= $2 AND shard < $3
            AND CASE
                WHEN until_ms IS NOT NULL THEN source = $6 AND (cursor_ms < until_ms OR $7)
                ELSE backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $7, slices_cursor_ms, $4, $5)
            END
        ORDER BY shard, user_address
        LIMIT 1
    ) IS TRUE
    OR (
        SELECT true FROM backfill_progress
        WHERE state = 'completed' AND judged_at IS NULL AND window_end_ms IS NOT NULL AND shard >= $2 AND shard < $3
        ORDER BY shard, user_address
        LIMIT 1
    ) IS TRUE AS busy;
