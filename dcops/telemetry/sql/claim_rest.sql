-- Locks spools that hold some of these records already and says which.
SELECT s.id, (s.seen * w.new)::text
FROM telemetry_spool s
JOIN (SELECT unnest(%(ids)s::bigint[]) AS id, unnest(%(new)s::text[])::int8multirange AS new) w ON w.id = s.id
ORDER BY s.id
FOR UPDATE OF s
