-- User $1, read to the end, is worker $2's, to be repaired. If the repair dies, the user is left as one of whom the last
-- millisecond is unread: a run would finish it with one request, and `completed_at`, which nobody else leaves set
-- on such a user, tells a later repair that it need not be (audit_resume.sql). Awaits its verdict from now on.
UPDATE backfill_progress AS p SET
    completed = false,
    claimed_by = $2,
    claimed_at = now(),
    cursor_ms = window_end_ms - 1,
    judged_at = NULL,
    updated_at = now()
FROM (SELECT user_address, judged_at FROM backfill_progress WHERE user_address = $1 FOR UPDATE) AS before
WHERE p.user_address = before.user_address AND p.window_end_ms IS NOT NULL
    AND (
        p.state = 'completed'
        OR (p.state = 'pending' AND p.completed_at IS NOT NULL AND p.cursor_ms = p.window_end_ms - 1)
        OR (p.claimed_by = $2 AND p.completed_at IS NOT NULL)
    )
RETURNING before.judged_at, p.completed_at;
