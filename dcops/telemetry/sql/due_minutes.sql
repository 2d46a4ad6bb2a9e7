-- Lists minutes to roll up, newest first: fresh ones at once, late ones when no more rows come for them or after a while.
SELECT d.table_code, d.bucket
FROM telemetry_rollup_due d
WHERE d.step_s = 60 AND d.bucket <= %(settled)s
  AND NOT EXISTS (SELECT 1 FROM telemetry_packed p WHERE p.table_code = d.table_code AND p.hour = date_trunc('hour', d.bucket, 'UTC'))
GROUP BY d.table_code, d.bucket
HAVING d.bucket > %(fresh)s OR max(d.marked_at) < %(quiet)s OR min(d.marked_at) < %(patience)s
ORDER BY d.bucket DESC
LIMIT %(most)s
