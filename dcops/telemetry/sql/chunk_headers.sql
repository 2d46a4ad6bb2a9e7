-- Lists a subject's packed hours in a window with what their chunks hold.
SELECT c.hour, c.row_count, c.header, l.columns
FROM telemetry_packed p
JOIN telemetry_chunk c ON c.table_code = p.table_code AND c.hour = p.hour AND c.subject_id = %(subject)s
JOIN telemetry_chunk_layout l ON l.id = c.layout_id
WHERE p.table_code = %(code)s AND c.table_code = %(code)s
  AND p.hour > %(start)s::timestamptz - interval '1 hour' AND p.hour < %(end)s
  AND c.hour > %(start)s::timestamptz - interval '1 hour' AND c.hour < %(end)s
ORDER BY c.hour
