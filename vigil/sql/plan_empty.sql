-- Whether nothing of ours, and no `fills` of somebody else's, is in this database.
SELECT to_regclass('vigil_migrations') IS NULL AND to_regclass('fills') IS NULL
    AND to_regclass('backfill_progress') IS NULL;
