-- Lists what could not be read, newest first.
SELECT q.id, q.at, q.node_id, n.name AS node, q.spool_id, q.first_seq, q.records, q.reason, q.payload_bytes
FROM telemetry_quarantine q
JOIN fleet_node n ON n.id = q.node_id
WHERE %(node_id)s::int IS NULL OR q.node_id = %(node_id)s
ORDER BY q.at DESC, q.id DESC
LIMIT %(limit)s
