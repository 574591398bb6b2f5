-- Worker $1 tells what it has spent and takes its share of its lane: $2 wanted, $3 held already, $4 allowed, $5 the
-- overshoot, $6 hungry, $7 used, $8 period, $9 weights settled, $10 seconds until each leaves the period. NULL: another
-- worker took over.
SELECT backfill_take_share($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);
