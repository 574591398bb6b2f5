-- Where the rows of the table $1 lie: itself, or its partitions or chunks; their blocks, and the file they are in.
WITH RECURSIVE parts AS (
    SELECT to_regclass($1)::oid AS oid
    UNION
    SELECT i.inhrelid FROM pg_inherits AS i JOIN parts ON parts.oid = i.inhparent
)
SELECT
    format('%I.%I', n.nspname, c.relname) AS part,
    c.oid AS oid,
    pg_relation_filenode(c.oid) AS filenode,
    (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::bigint AS blocks
FROM parts
JOIN pg_class AS c USING (oid)
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
ORDER BY c.oid;
