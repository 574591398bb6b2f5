-- The days [from_time, until_time) for which `fills_daily` is not up to date, in time order.
SELECT from_time, until_time FROM backfill_daily_behind() ORDER BY 1;
