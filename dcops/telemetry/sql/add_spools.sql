-- Opens the ledger of spools seen for the first time and returns the ids of all that were asked for.
WITH wanted AS (
    SELECT unnest(%(nodes)s::int[]) AS node_id, unnest(%(spools)s::text[]) AS spool_id, unnest(%(kinds)s::text[]) AS kind
), added AS (
    INSERT INTO telemetry_spool (node_id, spool_id, kind, last_received_at)
    SELECT node_id, spool_id, kind, %(now)s FROM wanted ORDER BY node_id, spool_id
    ON CONFLICT DO NOTHING
    RETURNING id, node_id, spool_id, kind
)
SELECT id, node_id, spool_id, kind FROM added
UNION ALL
SELECT s.id, s.node_id, s.spool_id, s.kind FROM telemetry_spool s JOIN wanted USING (node_id, spool_id)
