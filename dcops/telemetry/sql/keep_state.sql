-- Keeps a node's newest level-triggered state.
INSERT INTO telemetry_node_state (node_id, at, processes, findings)
VALUES (%(node_id)s, %(at)s, %(processes)s, %(findings)s)
ON CONFLICT (node_id) DO UPDATE SET at = excluded.at, processes = excluded.processes, findings = excluded.findings
