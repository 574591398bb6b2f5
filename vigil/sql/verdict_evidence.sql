-- The evidence of the users $1, one row a user and coin: the columns of vigil.verdict.CoinEvidence, which tells how
-- a chain is followed. Each user's rows are read once, in one range of the key's index, and sorted by themselves;
-- only coins whose chain does not hold as listed are read again, with the order inside each millisecond open.
-- Two positions agree if they differ by at most greatest(1e-6, 1e-12 of the larger).
WITH listed AS MATERIALIZED (
    SELECT u.user_address, swept.*
    FROM unnest($1::text[]) AS u (user_address)
    CROSS JOIN LATERAL (
        SELECT
            coin,
            NOT (starts_with(coin, '@') OR starts_with(coin, '#') OR strpos(coin, '/') > 0) AS chained,
            count(*) AS rows,
            sum(px * sz) AS notional,
            min(time) AS first_time,
            max(time) AS last_time,
            min(start_position) FILTER (WHERE left_at IS NULL) AS first_position,
            min(start_position + moved) FILTER (WHERE is_last) AS last_position,
            count(left_behind + start_position) AS links,
            count(*) FILTER (WHERE breaks) AS broken,
            coalesce(sum(abs(start_position - left_behind)) FILTER (WHERE breaks), 0) AS missing,
            min(left_at) FILTER (WHERE breaks) AS first_break_from,
            min(time) FILTER (WHERE breaks) AS first_break_to,
            max(left_at) FILTER (WHERE breaks) AS last_break_from,
            max(time) FILTER (WHERE breaks) AS last_break_to,
            count(twap_id) AS twap_rows,
            count(block_time) AS archive_rows,
            count(*) FILTER (WHERE tid < 0) AS derived_tid_rows,
            count(*) - count(seq) AS unsequenced_rows,
            count(*) - count(start_position) AS blind_rows
        FROM (
            SELECT
                *,
                left_behind <> start_position AND abs(left_behind - start_position)
                > greatest(0.000001, 0.000000000001 * greatest(abs(left_behind), abs(start_position))) AS breaks
            FROM (
                SELECT
                    coin, time, px, sz, start_position, moved, twap_id, block_time, tid, seq,
                    lag(start_position + moved) OVER line AS left_behind,
                    lag(time) OVER line AS left_at,
                    lead(true) OVER line IS NULL AS is_last
                FROM (
                    SELECT *, CASE side WHEN 'B' THEN sz ELSE -sz END AS moved
                    FROM fills
                    WHERE fills.user_address = u.user_address
                ) AS mine
                WINDOW line AS (PARTITION BY coin ORDER BY time, seq, tid, oid, side)
            ) AS linked
        ) AS checked
        GROUP BY coin
    ) AS swept
),
reordered AS (
    SELECT doubtful.user_address, doubtful.coin, followed.*
    FROM (
        SELECT user_address, coin FROM listed
        WHERE chained AND blind_rows = 0
            AND (
                broken > 0
                OR (abs(first_position) > 0.000001 AND (unsequenced_rows > 0 OR twap_rows NOT IN (0, rows)))
            )
    ) AS doubtful
    CROSS JOIN LATERAL (
        WITH mine AS (
            -- Halves of self-trades (2023) move nothing: one trade, both its sides, found at one position.
            SELECT
                time, seq, tid, oid, side, start_position, twap_id,
                CASE WHEN half THEN 0 WHEN side = 'B' THEN sz ELSE -sz END AS moved,
                half
            FROM (
                SELECT
                    *,
                    tid <> 0 AND side IN ('A', 'B')
                    AND row_number() OVER (twins_of_side ORDER BY seq, tid, oid)
                    <= least(count(*) FILTER (WHERE side = 'A') OVER twins, count(*) FILTER (WHERE side = 'B') OVER twins)
                    AS half
                FROM fills
                WHERE fills.user_address = doubtful.user_address AND fills.coin = doubtful.coin
                WINDOW
                    twins AS (
                        PARTITION BY time, start_position, px, sz, hash, greatest(tid, -1), (side = 'B') = crossed
                    ),
                    twins_of_side AS (
                        PARTITION BY time, start_position, px, sz, hash, greatest(tid, -1), (side = 'B') = crossed, side
                    )
            ) AS paired
        ),
        moments AS (
            SELECT
                time,
                count(*) - 1 AS links,
                count(*) FILTER (WHERE breaks) AS broken,
                coalesce(sum(abs(start_position - left_behind)) FILTER (WHERE breaks), 0) AS missing,
                array_agg(start_position ORDER BY seq, tid, oid, side) AS starts,
                array_agg(start_position + moved ORDER BY seq, tid, oid, side) AS ends,
                count(DISTINCT seq) = count(*) AND count(twap_id) IN (0, count(*)) AS ordered,
                count(*) FILTER (WHERE half) AS halves
            FROM (
                SELECT
                    *,
                    left_behind <> start_position AND abs(left_behind - start_position)
                    > greatest(0.000001, 0.000000000001 * greatest(abs(left_behind), abs(start_position))) AS breaks
                FROM (
                    SELECT
                        *,
                        lag(start_position + moved)
                            OVER (PARTITION BY time ORDER BY seq, tid, oid, side) AS left_behind
                    FROM mine
                ) AS linked
            ) AS checked
            GROUP BY time
        ),
        entered AS (
            -- The ends of the chain that a millisecond's rows make in some order. `entry` NULL: a round trip.
            SELECT
                m.time, m.links, m.starts, m.halves, m.starts[1] AS first_start,
                CASE WHEN trail.closes THEN 0 ELSE m.broken END AS broken,
                CASE WHEN trail.closes THEN 0 ELSE m.missing END AS missing,
                CASE WHEN trail.closes THEN trail.entry ELSE m.starts[1] END AS entry,
                CASE WHEN trail.closes THEN trail.exit ELSE m.ends[m.links + 1] END AS exit
            FROM moments AS m
            LEFT JOIN LATERAL (
                SELECT found.*
                FROM (
                    -- A gate, kept by OFFSET 0: as the join's condition it would be looked at after each search.
                    SELECT WHERE m.links > 0 AND (
                        m.broken > 0
                        OR NOT m.ordered AND abs(m.starts[1] - m.ends[m.links + 1])
                        <= greatest(0.000001, 0.000000000001 * greatest(abs(m.starts[1]), abs(m.ends[m.links + 1])))
                    )
                    OFFSET 0
                ) AS doubtful
                CROSS JOIN LATERAL (
                    WITH RECURSIVE ranked AS (
                        SELECT
                            *,
                            coalesce(
                                v - lag(v) OVER (ORDER BY v)
                                > greatest(0.000001, 0.000000000001 * greatest(abs(v), abs(lag(v) OVER (ORDER BY v)))),
                                true
                            ) AS is_new
                        FROM (
                            SELECT place, 1 AS leaves, v FROM unnest(m.starts) WITH ORDINALITY AS s (v, place)
                            UNION ALL
                            SELECT place, -1, v FROM unnest(m.ends) WITH ORDINALITY AS e (v, place)
                        ) AS ends
                    ),
                    numbered AS (SELECT *, sum(is_new::int) OVER (ORDER BY v) AS node FROM ranked),
                    edges AS (
                        SELECT
                            min(node) FILTER (WHERE leaves = 1) AS start_node,
                            min(node) FILTER (WHERE leaves = -1) AS end_node
                        FROM numbered
                        GROUP BY place
                    ),
                    nodes AS (
                        SELECT
                            node,
                            sum(leaves) AS surplus,
                            min(v) FILTER (WHERE leaves = 1) AS leaving,
                            min(v) FILTER (WHERE leaves = -1) AS arriving
                        FROM numbered
                        GROUP BY node
                    ),
                    reached AS (
                        SELECT coalesce(min(node) FILTER (WHERE surplus > 0), min(node)) AS node FROM nodes
                        UNION
                        SELECT edges.end_node FROM reached JOIN edges ON edges.start_node = reached.node
                    )
                    SELECT
                        coalesce(sum(surplus) FILTER (WHERE surplus > 0), 0) <= 1
                        AND NOT EXISTS (SELECT FROM edges WHERE start_node NOT IN (SELECT node FROM reached)) AS closes,
                        min(leaving) FILTER (WHERE surplus > 0) AS entry,
                        min(arriving) FILTER (WHERE surplus < 0) AS exit
                    FROM nodes
                ) AS found
            ) AS trail ON true
        ),
        -- A round trip leaves the position where the last other millisecond (which opens a stretch) left it.
        stretches AS (SELECT *, count(entry) OVER (ORDER BY time) AS stretch FROM entered),
        beginning AS (
            -- The position before the first row. A first round trip fits what follows; if all are such, what most touch.
            SELECT
                coalesce(
                    first.entry,
                    (
                        SELECT start FROM unnest(first.starts) AS start
                        ORDER BY abs(start - coalesce(likely.entry, likely.touched)), start
                        LIMIT 1
                    )
                ) AS position
            FROM (SELECT entry, starts FROM entered ORDER BY time LIMIT 1) AS first
            CROSS JOIN (
                SELECT
                    (SELECT entry FROM entered WHERE entry IS NOT NULL ORDER BY time LIMIT 1) AS entry,
                    (
                        SELECT start
                        FROM (SELECT DISTINCT time, round(unnest(starts), 6) AS start FROM entered) AS touched
                        GROUP BY start
                        ORDER BY count(*) DESC, abs(start), start
                        LIMIT 1
                    ) AS touched
            ) AS likely
        ),
        positioned AS (
            SELECT
                stretches.*,
                CASE
                    WHEN stretch = 0 THEN (SELECT position FROM beginning)
                    ELSE first_value(exit) OVER (PARTITION BY stretch ORDER BY time)
                END AS position
            FROM stretches
        ),
        linked AS (
            SELECT
                *,
                CASE
                    WHEN left_at IS NULL THEN NULL
                    WHEN entry IS NOT NULL THEN entry
                    ELSE (SELECT start FROM unnest(starts) AS start ORDER BY abs(start - left_behind), start LIMIT 1)
                END AS found
            FROM (
                SELECT *, lag(position) OVER (ORDER BY time) AS left_behind, lag(time) OVER (ORDER BY time) AS left_at
                FROM positioned
            ) AS followed
        ),
        judged AS (
            SELECT
                *,
                coalesce(
                    abs(left_behind - found)
                    > greatest(0.000001, 0.000000000001 * greatest(abs(left_behind), abs(found))),
                    false
                ) AS breaks
            FROM linked
        )
        SELECT
            (SELECT position FROM beginning) AS first_position,
            (array_agg(position ORDER BY time DESC))[1] AS last_position,
            (sum(links) + count(left_at))::bigint AS links,
            (sum(broken) + count(*) FILTER (WHERE breaks))::bigint AS broken,
            sum(missing) + coalesce(sum(abs(found - left_behind)) FILTER (WHERE breaks), 0) AS missing,
            min(CASE WHEN breaks THEN left_at ELSE time END) FILTER (WHERE breaks OR broken > 0) AS first_break_from,
            min(time) FILTER (WHERE breaks OR broken > 0) AS first_break_to,
            max(CASE WHEN broken > 0 THEN time ELSE left_at END) FILTER (WHERE breaks OR broken > 0) AS last_break_from,
            max(time) FILTER (WHERE breaks OR broken > 0) AS last_break_to,
            (sum(halves) / 2)::bigint AS self_trades
        FROM judged
    ) AS followed
),
final AS (
    SELECT
        l.user_address, l.coin, l.chained, l.rows, l.notional, l.first_time, l.last_time,
        l.twap_rows, l.archive_rows, l.derived_tid_rows, l.unsequenced_rows, l.blind_rows,
        coalesce(r.self_trades, 0) AS self_trades,
        chain.*
    FROM listed AS l
    LEFT JOIN reordered AS r USING (user_address, coin)
    CROSS JOIN LATERAL (
        SELECT
            r.first_position, r.last_position, r.links, r.broken, r.missing,
            r.first_break_from, r.first_break_to, r.last_break_from, r.last_break_to
        WHERE r.coin IS NOT NULL
        UNION ALL
        SELECT
            l.first_position, l.last_position, l.links, l.broken, l.missing,
            l.first_break_from, l.first_break_to, l.last_break_from, l.last_break_to
        WHERE r.coin IS NULL AND l.chained
        UNION ALL
        SELECT NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL
        WHERE NOT l.chained
    ) AS chain
)
SELECT
    user_address, coin, chained, rows, notional,
    (extract(epoch FROM first_time) * 1000)::bigint AS first_ms,
    (extract(epoch FROM last_time) * 1000)::bigint AS last_ms,
    first_position, last_position, links, broken, missing,
    (extract(epoch FROM first_break_from) * 1000)::bigint AS first_break_from_ms,
    (extract(epoch FROM first_break_to) * 1000)::bigint AS first_break_to_ms,
    (extract(epoch FROM last_break_from) * 1000)::bigint AS last_break_from_ms,
    (extract(epoch FROM last_break_to) * 1000)::bigint AS last_break_to_ms,
    self_trades, twap_rows, archive_rows, derived_tid_rows, unsequenced_rows, blind_rows
FROM final
ORDER BY user_address, coin;
