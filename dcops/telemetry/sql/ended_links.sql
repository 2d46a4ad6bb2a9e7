-- Finds the links that must end, and why.
SELECT w.node_id, CASE WHEN n.id IS NULL OR n.state = 'revoked' THEN 'revoked' ELSE 'replaced' END
FROM unnest(%(ids)s::int[], %(sessions)s::text[]) AS w (node_id, session)
LEFT JOIN fleet_node n ON n.id = w.node_id
LEFT JOIN telemetry_link l ON l.node_id = w.node_id
WHERE n.id IS NULL OR n.state = 'revoked' OR l.session IS DISTINCT FROM w.session
