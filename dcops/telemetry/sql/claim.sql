-- Marks records of spools as seen, where none of them was; what is not returned holds some that were.
UPDATE telemetry_spool s SET seen = s.seen + w.new, last_received_at = %(now)s
FROM (SELECT unnest(%(ids)s::bigint[]) AS id, unnest(%(new)s::text[])::int8multirange AS new ORDER BY 1) w
WHERE s.id = w.id AND NOT s.seen && w.new
RETURNING s.id
