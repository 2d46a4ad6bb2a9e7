-- Lists events, newest first.
SELECT e.id, e.at, e.node_id, n.name AS node, e.gpu_id, g.uuid AS gpu, g.index AS gpu_index, e.kind, e.severity, e.code,
       e.message, e.source, n.simulated
FROM telemetry_event e
JOIN fleet_node n ON n.id = e.node_id
LEFT JOIN fleet_gpu g ON g.id = e.gpu_id
WHERE (%(node_id)s::int IS NULL OR e.node_id = %(node_id)s)
  AND (%(gpu_id)s::int IS NULL OR e.gpu_id = %(gpu_id)s)
  AND (%(start)s::timestamptz IS NULL OR e.at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR e.at < %(end)s)
ORDER BY e.at DESC, e.id DESC
LIMIT %(limit)s
