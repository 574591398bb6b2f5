-- Users read to their end that await their verdict.
SELECT count(*) FROM backfill_progress WHERE state = 'completed' AND judged_at IS NULL AND window_end_ms IS NOT NULL;
