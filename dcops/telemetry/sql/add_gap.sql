-- Records a piece of a spool that is lost for good.
INSERT INTO telemetry_gap (node_id, spool_id, first_seq, last_seq, first_at, last_at, reason, received_at)
VALUES (%(node_id)s, %(spool_id)s, %(first)s, %(last)s, %(first_at)s, %(last_at)s, %(reason)s, %(now)s)
