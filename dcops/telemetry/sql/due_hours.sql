-- Lists hours to roll up: those that are over and whose minutes are done.
SELECT d.table_code, d.bucket
FROM telemetry_rollup_due d
WHERE d.step_s = 3600 AND d.bucket <= %(settled)s
  AND NOT EXISTS (
    SELECT 1 FROM telemetry_rollup_due m
    WHERE m.step_s = 60 AND m.table_code = d.table_code AND m.bucket >= d.bucket AND m.bucket < d.bucket + interval '1 hour'
  )
GROUP BY d.table_code, d.bucket
ORDER BY d.bucket DESC
LIMIT %(most)s
