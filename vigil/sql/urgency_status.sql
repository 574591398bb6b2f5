-- What an hour of delay costs, by the estimates as they were stored last: users whose history is being lost, fills of
-- their windows that are expected to be lost in an hour, and to be within reach still (vigil.urgency.Estimate:
-- lost_per_hour, at_stake; 10000 is REACH_ROWS). Those being read right now are among them.
SELECT
    count(*) AS users_losing,
    coalesce(sum(least(fills_per_hour, 10000 - rows_after_window) * rows_after_window / 10000), 0)::double precision
        AS lost_per_hour,
    coalesce(round(sum(rows_after_window * ln(10000.0 / rows_after_window))), 0)::bigint AS fills_at_stake
FROM backfill_progress
WHERE urgency > 0 AND state <> 'completed' AND rows_after_window > 0 AND rows_after_window < 10000;
