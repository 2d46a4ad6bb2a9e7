-- Locks a spool and returns what of this range never arrived.
SELECT (int8multirange(int8range(%(first)s, %(last)s, '[]')) - seen)::text FROM telemetry_spool WHERE id = %(id)s FOR UPDATE
