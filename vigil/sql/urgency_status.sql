-- What an hour of delay costs, by the estimates as they were stored last: users whose history is being lost, fills of
-- their windows that are expected to be lost in an hour, and to be within reach still (vigil.urgency.Estimate:
-- lost_per_hour, at_stake). Those being read right now are among them.
SELECT
    coalesce(sum(users_losing), 0)::bigint AS users_losing,
    coalesce(sum(lost_per_hour), 0)::double precision AS lost_per_hour,
    coalesce(round(sum(fills_at_stake)), 0)::bigint AS fills_at_stake
FROM backfill_counts
WHERE what = 'users';
