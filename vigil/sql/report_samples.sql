-- The runs over time, in spans of $1 seconds since the epoch; a sample that reaches over several is shared out by time.
-- A span that no sample touches is not there: nobody was at work then, or nobody told.
SELECT
    to_timestamp(span * $1::double precision) AS at,
    sum(share * allowed_weight)::double precision AS allowed_weight,
    sum(share * spent_weight)::double precision AS spent_weight,
    sum(share * requests)::double precision AS requests,
    sum(share * pauses)::double precision AS pauses,
    sum(share * inserted)::double precision AS inserted,
    sum(share * received)::double precision AS received,
    sum(share * users_done)::double precision AS users_done,
    sum(share * users_failed)::double precision AS users_failed,
    sum(share * other_faults)::double precision AS other_faults
FROM (
    SELECT
        s.*,
        span,
        CASE
            WHEN until_s > from_s
                THEN (least(until_s, (span + 1) * $1) - greatest(from_s, span * $1)) / (until_s - from_s)
            ELSE 1
        END AS share
    FROM (
        SELECT
            *,
            extract(epoch FROM at)::double precision AS until_s,
            extract(epoch FROM at)::double precision - seconds AS from_s,
            (
                SELECT coalesce(sum(told.value::numeric), 0)
                FROM jsonb_each_text(faults) AS told
                WHERE told.key <> 'throttled'
            ) AS other_faults
        FROM backfill_samples
    ) AS s
    CROSS JOIN LATERAL generate_series(
        floor(from_s / $1)::bigint,
        greatest(ceil(until_s / $1)::bigint - 1, floor(from_s / $1)::bigint)
    ) AS span
) AS shared
GROUP BY span
ORDER BY span;
