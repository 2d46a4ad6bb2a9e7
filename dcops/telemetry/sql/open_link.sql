-- Opens a node's first link.
INSERT INTO telemetry_link (node_id, session, boot_id, connected_at, alive_at)
VALUES (%(node_id)s, %(session)s, %(boot_id)s, %(now)s, %(now)s)
ON CONFLICT (node_id) DO NOTHING
RETURNING node_id
