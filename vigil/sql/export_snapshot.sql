-- The instant of the export's snapshot: the first statement of its transaction.
SELECT now();
