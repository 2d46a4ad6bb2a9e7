-- Keeps what could not be read, with the beginning of the first record.
INSERT INTO telemetry_quarantine (at, node_id, spool_id, first_seq, records, reason, payload, payload_bytes)
VALUES (%(now)s, %(node_id)s, %(spool_id)s, %(first_seq)s, %(records)s, %(reason)s, %(payload)s, %(payload_bytes)s)
