-- Where a batch lands before the upsert: columns in the order of vigil.fills.COPY_COLUMNS. The view adds
-- the time as `fills` has it (exact: an interval of whole milliseconds is whole microseconds).
CREATE TEMP TABLE IF NOT EXISTS staged_lines (
    user_address text COLLATE "C", time_ms bigint, coin text COLLATE "C", side text COLLATE "C",
    px numeric, sz numeric, start_position numeric, closed_pnl numeric, fee numeric, dir text, hash text,
    oid bigint, crossed boolean, fee_token text, tid bigint, twap_id bigint, cloid text, builder_fee numeric,
    liquidation jsonb, seq integer, extra jsonb
);
CREATE OR REPLACE TEMP VIEW staged_fills AS
SELECT *, timestamptz 'epoch' + time_ms * interval '1 millisecond' AS time FROM staged_lines;
