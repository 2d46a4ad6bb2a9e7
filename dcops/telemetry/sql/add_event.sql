-- Stores an event unless another source told the same happening within a day.
INSERT INTO telemetry_event (at, received_at, node_id, gpu_id, kind, severity, code, message, key, source)
SELECT %(at)s, %(now)s, %(node_id)s, %(gpu_id)s, %(kind)s, %(severity)s, %(code)s, %(message)s, %(key)s, %(source)s
WHERE %(key)s = '' OR NOT EXISTS (
    SELECT 1 FROM telemetry_event
    WHERE node_id = %(node_id)s AND key = %(key)s
      AND at BETWEEN %(at)s::timestamptz - interval '1 day' AND %(at)s::timestamptz + interval '1 day'
)
