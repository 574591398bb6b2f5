-- Of the users $1, those that are or may soon be judged, held until the commit: a judge at work is waited for, and none
-- begins before the new rows are there. Workers that read them are not in the way, nor this in theirs.
SELECT count(*) FROM (
    SELECT FROM backfill_progress
    WHERE user_address = ANY ($1::text[]) AND state IN ('claimed', 'completed')
    ORDER BY user_address
    FOR KEY SHARE
) AS held;
