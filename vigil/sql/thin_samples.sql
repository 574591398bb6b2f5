-- Of old samples one an hour stays.
SELECT backfill_thin_samples();
