-- The fills themselves, and the rows that could not become one.

-- One row an execution of one user; both sides of a trade are rows of their own, with the same tid.
-- A table of that name may be here already (from the archives): it is left as it is, and vigil checks
-- before each run that its columns and key are the ones below.
CREATE TABLE IF NOT EXISTS fills (
    user_address   text COLLATE "C" NOT NULL,  -- 0x and 40 hex digits, lower case
    time           timestamptz NOT NULL,       -- the exchange's milliseconds, exact
    coin           text COLLATE "C" NOT NULL,  -- BTC, kPEPE, @107, PURR/USDC, xyz:NVDA, #7501: an open set
    side           text COLLATE "C" NOT NULL,  -- B or A
    px             numeric NOT NULL,
    sz             numeric NOT NULL,           -- unsigned
    start_position numeric,                    -- signed position of the coin before this fill
    closed_pnl     numeric,                    -- before fees
    fee            numeric,                    -- negative: a rebate
    dir            text,                       -- Open Long, Buy, Spot Dust Conversion, ...: an open set
    hash           text,
    oid            bigint NOT NULL,
    crossed        boolean,                    -- true: taker
    fee_token      text,
    tid            bigint NOT NULL,            -- negative: derived from the row, the exchange gave none (2023)
    twap_id        bigint,
    cloid          text,
    builder_fee    numeric,
    liquidation    jsonb,
    block_time     timestamptz,                -- from the archives; the API does not tell it
    seq            integer,                    -- place inside its millisecond as served
    extra          jsonb,                      -- keys that the writing version did not know
    -- tid alone is no key (both sides of a trade share it, it is 0 on dust conversions), and a
    -- hypertable's key must hold the time. User first: one user's history is one range of the index.
    PRIMARY KEY (user_address, time, coin, oid, tid, side)
);

COMMENT ON TABLE fills IS 'Executions of Hyperliquid users, one row a user and side; written by vigil-backfill';

-- A hypertable where TimescaleDB is there, else the plain table stays what it is. 30-day chunks: a
-- backfill goes user by user, so one batch spreads over every chunk of the window.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AND NOT EXISTS (SELECT FROM fills) THEN
        PERFORM create_hypertable(
            'fills', 'time', chunk_time_interval => INTERVAL '30 days', create_default_indexes => false, if_not_exists => true
        );
    END IF;
END
$$;

-- Rows of an answer that could not be stored as a fill: raw, with the reason; served again, counted once.
CREATE TABLE rejected_fills (
    user_address text COLLATE "C" NOT NULL,
    raw_sha256   bytea NOT NULL,
    raw          text NOT NULL,
    reason       text NOT NULL,
    time_ms      bigint,                       -- where it could be read
    rejected_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_address, raw_sha256)
);
