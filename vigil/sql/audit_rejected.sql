-- Which of the raw rows $2 (their SHA-256) of user $1 are known to be none that can be stored.
SELECT raw_sha256 FROM rejected_fills WHERE user_address = $1 AND raw_sha256 = ANY ($2::bytea[]);
