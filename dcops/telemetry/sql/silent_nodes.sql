-- Finds nodes without samples for a while, though an ingest process was listening all the time, that no event names yet.
SELECT s.node_id, max(s.last_received_at)
FROM telemetry_spool s
JOIN fleet_node n ON n.id = s.node_id AND n.state <> 'revoked'
WHERE s.kind = 'metrics'
  AND EXISTS (
    SELECT 1 FROM telemetry_ingest
    WHERE alive_at > %(now)s::timestamptz - interval '20 seconds'
      AND started_at < %(now)s::timestamptz - 2 * make_interval(secs => %(silent_after_s)s) - interval '10 seconds'
  )
GROUP BY s.node_id
HAVING max(s.last_received_at) < %(now)s::timestamptz - make_interval(secs => %(silent_after_s)s)
   AND NOT EXISTS (
    SELECT 1 FROM telemetry_event e
    WHERE e.node_id = s.node_id AND e.kind = 'silent' AND e.at > max(s.last_received_at)
  )
