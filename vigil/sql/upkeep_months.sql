-- Months that `fills_daily` is behind for, oldest first: the order in which they must be refreshed.
SELECT from_time, until_time FROM backfill_months_behind() ORDER BY from_time;
