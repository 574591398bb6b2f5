-- Whether an adoption of `fills` has begun and is not over.
SELECT to_regclass('vigil_adoption') IS NOT NULL;
