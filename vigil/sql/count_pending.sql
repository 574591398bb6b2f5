-- Users of the shards [$3, $4) with something to read in [$1, $2) from source $5; $6: it serves TWAP slices too. Of all
-- shards those of whom nothing was read are counted by the counters, for they may be millions.
SELECT
    CASE
        WHEN $3::bigint <= 0 AND $4::bigint >= 4294967296 THEN (
            SELECT coalesce(sum(users), 0)::bigint
            FROM backfill_counts WHERE what = 'users' AND state = 'pending' AND fresh
        )
        ELSE (
            SELECT count(*) FROM backfill_progress
            WHERE state = 'pending' AND cursor_ms IS NULL AND until_ms IS NULL AND shard >= $3 AND shard < $4
        )
    END
    + (
        SELECT count(*) FROM backfill_progress
        WHERE state = 'pending' AND (cursor_ms IS NOT NULL OR until_ms IS NOT NULL) AND shard >= $3 AND shard < $4
            AND CASE
                WHEN until_ms IS NOT NULL THEN source = $5 AND (cursor_ms < until_ms OR $6)
                ELSE backfill_unread(cursor_ms, window_start_ms, slices_wanted AND $6, slices_cursor_ms, $1, $2)
            END
    );
