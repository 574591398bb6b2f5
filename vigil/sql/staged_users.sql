-- The staged rows of each user.
SELECT user_address, count(*) AS rows FROM staged_lines GROUP BY user_address;
