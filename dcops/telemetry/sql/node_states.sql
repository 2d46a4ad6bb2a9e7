-- Says what nodes reported last and when they were last heard.
SELECT n.id AS node_id, s.last_received_at, t.at, coalesce(t.processes, '[]') AS processes, coalesce(t.findings, '[]') AS findings
FROM fleet_node n
LEFT JOIN (
    SELECT node_id, max(last_received_at) AS last_received_at FROM telemetry_spool WHERE kind = 'metrics' GROUP BY node_id
) s ON s.node_id = n.id
LEFT JOIN telemetry_node_state t ON t.node_id = n.id
WHERE %(node_ids)s::int[] IS NULL OR n.id = ANY(%(node_ids)s::int[])
