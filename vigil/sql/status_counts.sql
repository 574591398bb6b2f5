-- The counters of users, gaps and rejected rows, a row a group: vigil.status adds them up.
SELECT
    what, state::text AS state, verdict::text AS verdict, unjudged, urgent, attempts, users, rows, notional,
    users_with_volume, volume_notional, volume, users_read, weight, weight_squares, users_losing, lost_per_hour,
    fills_at_stake
FROM backfill_counted;
