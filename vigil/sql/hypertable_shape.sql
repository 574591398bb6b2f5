-- How `fills` and what hangs on it stand: vigil.hypertable.Shape.
SELECT * FROM backfill_shape();
