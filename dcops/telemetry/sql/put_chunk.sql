-- Writes a subject's hour, in place of an earlier one.
INSERT INTO telemetry_chunk (hour, table_code, subject_id, layout_id, row_count, header, body)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (table_code, subject_id, hour) DO UPDATE
SET layout_id = excluded.layout_id, row_count = excluded.row_count, header = excluded.header, body = excluded.body
