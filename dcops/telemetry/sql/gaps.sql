-- Lists gaps, newest first.
SELECT x.id, x.node_id, n.name AS node, x.spool_id, x.first_seq, x.last_seq, x.first_at, x.last_at, x.reason, x.received_at
FROM telemetry_gap x
JOIN fleet_node n ON n.id = x.node_id
WHERE %(node_id)s::int IS NULL OR x.node_id = %(node_id)s
ORDER BY x.received_at DESC, x.id DESC
LIMIT %(limit)s
