-- Reads slices of a subject's chunks, without the rest of their bodies.
SELECT w.position::int, substring(c.body FROM w.first FOR w.size)
FROM unnest(%(hours)s::timestamptz[], %(offsets)s::int[], %(lengths)s::int[]) WITH ORDINALITY AS w (hour, first, size, position)
JOIN telemetry_chunk c ON c.hour = w.hour AND c.table_code = %(code)s AND c.subject_id = %(subject)s
