-- The verdicts on the coins of users $1 replace those of before: $2 users, $3 coins, $4 verdicts, $5 causes (JSON),
-- $6 why, $7 evidence (JSON).
WITH gone AS (
    DELETE FROM backfill_verdicts AS v
    WHERE v.user_address = ANY ($1::text[])
        AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS told (u, c) WHERE u = v.user_address AND c = v.coin)
)
INSERT INTO backfill_verdicts AS v (user_address, coin, verdict, causes, why, evidence)
SELECT
    user_address, coin, verdict::backfill_verdict, ARRAY(SELECT jsonb_array_elements_text(causes::jsonb)), why,
    evidence::jsonb
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS told (user_address, coin, verdict, causes, why, evidence)
ON CONFLICT (user_address, coin) DO UPDATE SET
    verdict = excluded.verdict, causes = excluded.causes, why = excluded.why, evidence = excluded.evidence,
    judged_at = now();
