-- Says that these links are alive.
UPDATE telemetry_link l SET alive_at = %(now)s
FROM unnest(%(ids)s::int[], %(sessions)s::text[]) AS w (node_id, session)
WHERE l.node_id = w.node_id AND l.session = w.session
