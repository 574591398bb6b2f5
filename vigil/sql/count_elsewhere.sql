-- Users of the shards [$1, $2), and among $4 if that is given, that another source than $3 is being asked for.
SELECT source, count(*) AS users FROM backfill_progress
WHERE (state = 'pending' OR claimed_by IS NOT NULL) AND until_ms IS NOT NULL AND source <> $3
    AND shard >= $1 AND shard < $2
    AND ($4::text[] IS NULL OR user_address = ANY ($4::text[]))
GROUP BY source
ORDER BY source;
