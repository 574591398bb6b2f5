-- Whether `fills` is made of tables of its own: a hypertable with chunks, or partitioned.
SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass('fills'));
