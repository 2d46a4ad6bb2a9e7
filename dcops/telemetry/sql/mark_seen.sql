-- Marks records of locked spools as seen.
UPDATE telemetry_spool s SET seen = s.seen + w.new, last_received_at = %(now)s
FROM (SELECT unnest(%(ids)s::bigint[]) AS id, unnest(%(new)s::text[])::int8multirange AS new) w
WHERE s.id = w.id
