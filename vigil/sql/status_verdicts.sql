-- Judged users by verdict, with what is known of them. The lifetime volume is the exchange's, of those it was asked for.
SELECT
    verdict::text AS verdict,
    count(*) AS users,
    sum(fills_count)::bigint AS fills,
    coalesce(sum(notional), 0) AS notional,
    count(*) FILTER (WHERE lifetime_volume > 0) AS users_with_volume,
    sum(notional) FILTER (WHERE lifetime_volume > 0) / sum(lifetime_volume) FILTER (WHERE lifetime_volume > 0)
        AS captured_share
FROM backfill_progress
WHERE verdict IS NOT NULL AND judged_at IS NOT NULL
GROUP BY backfill_progress.verdict
ORDER BY backfill_progress.verdict;
