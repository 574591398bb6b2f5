-- Users by what is known of them for the window [$1, $2) of source $3, and whether their history is being lost (urgent):
--   finished   read for it                       slices     only their TWAP slices are left ($10: those of everybody)
--   partly     a part of it has been read        unread     nothing of it has
--   parked     failed $4 times                   elsewhere  left to a worker of another source
-- of $11 if that is not NULL. For partly and unread ones `rows` are those expected, as far as anything is known of the
-- user itself: as many as its pace so far makes of the rest, half of that where nothing tells that it traded on after
-- the window, and no more than it had so far (histories are heavy-tailed, and end some time); of an urgent one those
-- at stake (vigil.urgency.Estimate.at_stake). Never more than are within reach ($9, NULL: a source that keeps all).
-- `read_*`: those read to the end from that source, whatever their window, their rows brought to the length of this
-- one ($5: nothing happened before). Weights by the prices $6 (base), $7 (rows a weight), $8 (rows of a page), as
-- vigil.forecast.rows_weight; of a list of slices the base.
WITH known AS (
    SELECT
        p.*,
        urgency > 0 AND $9::bigint IS NOT NULL AS urgent,
        window_start_ms IS NOT NULL AND window_start_ms <= $1::bigint AND cursor_ms >= $1
            AND (source = $3::text OR $3 = ANY (sources)) AS goes_on,
        window_start_ms IS NOT NULL AND cursor_ms >= window_end_ms
            AND window_end_ms > greatest(window_start_ms, $5::bigint) AND $3 = ANY (sources) AS is_read,
        greatest(0, coalesce($9, 9e15::bigint) - coalesce(rows_after_window, 0) - fills_count) AS within_reach
    FROM backfill_progress AS p
    WHERE $11::text[] IS NULL OR user_address = ANY ($11)
),
told AS (
    SELECT
        urgent, is_read, slices_wanted,
        CASE
            WHEN until_ms IS NOT NULL AND source <> $3 THEN 'elsewhere'
            WHEN state = 'failed' AND attempts >= $4::integer THEN 'parked'
            WHEN completed AND window_end_ms IS NULL THEN 'finished'
            WHEN goes_on AND cursor_ms >= $2::bigint THEN
                CASE
                    WHEN ($10::boolean OR slices_wanted AND NOT completed)
                        AND coalesce(slices_cursor_ms, window_start_ms) < $2
                    THEN 'slices' ELSE 'finished'
                END
            WHEN goes_on AND cursor_ms > window_start_ms THEN 'partly'
            ELSE 'unread'
        END AS kind,
        CASE
            WHEN goes_on AND cursor_ms > coalesce(oldest_fill_time, cursor_ms) THEN
                least(
                    within_reach,
                    fills_count,
                    fills_count * ($2 - cursor_ms)::double precision / (cursor_ms - oldest_fill_time)
                        * CASE WHEN rows_after_window > 0 THEN 1 ELSE 0.5 END
                )
            WHEN NOT goes_on AND urgent AND rows_after_window > 0 AND rows_after_window < $9 THEN
                rows_after_window * ln($9 / rows_after_window::double precision)
            ELSE 0
        END::bigint AS rows,
        CASE
            WHEN is_read THEN
                least(
                    greatest($9, fills_count),
                    fills_count * ($2 - greatest($1, $5))::double precision
                        / (window_end_ms - greatest(window_start_ms, $5))
                )
            ELSE 0
        END::bigint AS read_rows
    FROM known
),
priced AS (
    SELECT
        *,
        CASE WHEN kind = 'slices' THEN $6::bigint ELSE backfill_weight(rows, $6, $7, $8) END AS weight,
        backfill_weight(read_rows, $6, $7, $8) AS read_weight
    FROM told
)
SELECT
    kind, urgent, count(*) AS users,
    sum(rows)::double precision AS rows,
    sum(weight)::double precision AS weight,
    count(*) FILTER (WHERE is_read) AS read_users,
    coalesce(sum(read_rows) FILTER (WHERE is_read), 0)::double precision AS read_rows,
    coalesce(sum(read_rows::double precision ^ 2) FILTER (WHERE is_read), 0) AS read_rows_squares,
    coalesce(sum(read_weight) FILTER (WHERE is_read), 0)::double precision AS read_weight,
    coalesce(sum(read_weight::double precision ^ 2) FILTER (WHERE is_read), 0) AS read_weight_squares,
    count(*) FILTER (WHERE is_read AND slices_wanted) AS read_slices
FROM priced
GROUP BY kind, urgent;
