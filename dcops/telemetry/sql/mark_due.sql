-- Says that these minutes changed.
INSERT INTO telemetry_rollup_due (table_code, step_s, bucket, subject_id, marked_at)
SELECT unnest(%(tables)s::smallint[]), 60, to_timestamp(unnest(%(minutes)s::bigint[]) * 60), unnest(%(subjects)s::int[]), %(now)s
