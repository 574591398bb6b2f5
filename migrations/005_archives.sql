-- What is in of the files that `vigil-backfill load` has read.

-- One row a file as it was found: another size or version of a name is another file, unless it begins with all that is
-- in of the old one, byte for byte (then it has grown, and its row goes on). A file with filters is a file of its own.
-- `prefix_digest` is of the first `bytes_done` bytes of its text, unpacked, so that the same content is known again by
-- another name and however it is packed; of Parquet it is of the whole file.
CREATE TABLE backfill_files (
    file_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,               -- path or URL
    size_bytes    bigint NOT NULL,             -- of the file as it lies there
    version       text NOT NULL,               -- time of its last change (ns), or the bucket's ETag
    scope         text NOT NULL DEFAULT '',    -- what was asked for of it; '' is all
    loader        bigint NOT NULL,             -- whose batches count: the load that took it last
    bytes_done    bigint NOT NULL DEFAULT 0,   -- of its text (rows, of Parquet) that are committed ...
    lines_done    bigint NOT NULL DEFAULT 0,   -- ... and how many lines (rows, of Parquet) those are
    prefix_digest bytea,
    received      bigint NOT NULL DEFAULT 0,   -- rows in those lines, less those passed over
    inserted      bigint NOT NULL DEFAULT 0,
    updated       bigint NOT NULL DEFAULT 0,
    already_there bigint NOT NULL DEFAULT 0,
    rejected      bigint NOT NULL DEFAULT 0,   -- in rejected_fills; also a line that can't be read counts as a row
    passed_over   bigint NOT NULL DEFAULT 0,   -- rows outside of `scope`
    complete      boolean NOT NULL DEFAULT false,
    error         text,                        -- why it is not, as far as the file is to blame
    started_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    CONSTRAINT rows_add_up CHECK (received = inserted + updated + already_there + rejected),
    UNIQUE (name, size_bytes, version, scope)
);

COMMENT ON TABLE backfill_files IS 'One row an archive file: what of it is in; written by vigil-backfill load';

-- The same content elsewhere has the same size.
CREATE INDEX backfill_files_size ON backfill_files (size_bytes) WHERE complete;
