-- The tables of telemetry that do not depend on the metric registry (schema.py makes those that do).
-- Node and GPU ids are fleet's int4 keys, without foreign keys: millions of rows an hour would pay for each.

-- Which records of which spool are committed. Half-empty pages and no index on what changes keep every update in its page.
CREATE TABLE telemetry_spool (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id int NOT NULL,
    spool_id text NOT NULL CHECK (length(spool_id) BETWEEN 1 AND 64),
    kind text NOT NULL CHECK (kind IN ('metrics', 'events')),
    seen int8multirange NOT NULL DEFAULT '{}',
    last_received_at timestamptz NOT NULL,
    UNIQUE (node_id, spool_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);

-- Who holds a node's link: the newest session wins, in whatever process it lives.
CREATE TABLE telemetry_link (
    node_id int PRIMARY KEY,
    session text NOT NULL,
    boot_id text NOT NULL,
    connected_at timestamptz NOT NULL,
    alive_at timestamptz NOT NULL,
    takeovers jsonb NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50);

-- The ingest processes there are: a node is only called silent by someone who was listening.
CREATE TABLE telemetry_ingest (
    process text PRIMARY KEY,
    started_at timestamptz NOT NULL,
    alive_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The latest level-triggered state of a node.
CREATE TABLE telemetry_node_state (
    node_id int PRIMARY KEY,
    at timestamptz NOT NULL,
    processes jsonb NOT NULL,
    findings jsonb NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE telemetry_event (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    node_id int NOT NULL,
    gpu_id int,
    kind text NOT NULL,
    severity text NOT NULL,
    code int,
    message text NOT NULL,
    key text NOT NULL,
    source text NOT NULL,
    PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
CREATE INDEX telemetry_event_node ON telemetry_event (node_id, at);
CREATE INDEX telemetry_event_gpu ON telemetry_event (gpu_id, at) WHERE gpu_id IS NOT NULL;
CREATE INDEX telemetry_event_key ON telemetry_event (node_id, key);

-- Records that are lost for good. A piece of a range that had arrived after all is never part of a gap.
CREATE TABLE telemetry_gap (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id int NOT NULL,
    spool_id text NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    first_at timestamptz,
    last_at timestamptz,
    reason text NOT NULL,
    received_at timestamptz NOT NULL
);
CREATE INDEX telemetry_gap_node ON telemetry_gap (node_id, received_at);

-- What could not be read, one row per batch and reason, with the beginning of the first such record.
CREATE TABLE telemetry_quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    node_id int NOT NULL,
    spool_id text NOT NULL,
    first_seq bigint NOT NULL,
    records int NOT NULL,
    reason text NOT NULL,
    payload bytea NOT NULL,
    payload_bytes int NOT NULL
);
CREATE INDEX telemetry_quarantine_at ON telemetry_quarantine (at);

-- Buckets whose rollup is out of date. Only ever inserted, in the transaction of the rows; the roller deletes what it sees.
-- A null subject means all of them.
CREATE TABLE telemetry_rollup_due (
    table_code smallint NOT NULL,
    step_s int NOT NULL,
    bucket timestamptz NOT NULL,
    subject_id int,
    marked_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX telemetry_rollup_due_bucket ON telemetry_rollup_due (step_s, bucket);

-- Hours whose rows lie in telemetry_chunk; without an entry here a chunk is not read.
CREATE TABLE telemetry_packed (
    table_code smallint NOT NULL,
    hour timestamptz NOT NULL,
    packed_at timestamptz NOT NULL,
    row_count bigint NOT NULL,
    value_count bigint NOT NULL,
    byte_count bigint NOT NULL,
    PRIMARY KEY (table_code, hour)
);

-- The column names, in order, of a chunk's header.
CREATE TABLE telemetry_chunk_layout (
    id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_code smallint NOT NULL,
    columns text[] NOT NULL,
    UNIQUE (table_code, columns)
);

-- One hour of one subject: header = where each column's slice lies in body (see chunk.py).
CREATE TABLE telemetry_chunk (
    hour timestamptz NOT NULL,
    table_code smallint NOT NULL,
    subject_id int NOT NULL,
    layout_id smallint NOT NULL,
    row_count int NOT NULL,
    header bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (table_code, subject_id, hour)
) PARTITION BY RANGE (hour);
ALTER TABLE telemetry_chunk ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE telemetry_chunk ALTER COLUMN header SET STORAGE PLAIN;

-- The tables that may have partitions made and dropped, and how long each is.
CREATE TABLE telemetry_partitioned (
    parent name PRIMARY KEY,
    step text NOT NULL CHECK (step IN ('hour', 'day', 'month'))
);
INSERT INTO telemetry_partitioned VALUES ('telemetry_event', 'month'), ('telemetry_chunk', 'day');

-- Makes the partition that holds `moment`, if it is not there. Attaching does not block readers or writers.
CREATE FUNCTION telemetry_make_partition(parent_name text, moment timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    unit text;
    lower_bound timestamp;  -- in UTC
    child text;
BEGIN
    SELECT step INTO unit FROM telemetry_partitioned WHERE parent = parent_name;
    IF unit IS NULL THEN
        RAISE EXCEPTION 'telemetry: % has no partitions', quote_literal(parent_name) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    lower_bound := date_trunc(unit, moment AT TIME ZONE 'UTC');
    child := parent_name || to_char(lower_bound, '"_p"YYYYMMDDHH24');
    IF to_regclass(quote_ident(child)) IS NOT NULL THEN
        RETURN child;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('telemetry_partition'), hashtext(parent_name));
    IF to_regclass(quote_ident(child)) IS NOT NULL THEN
        RETURN child;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', child, parent_name);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent_name, child,
        lower_bound AT TIME ZONE 'UTC', (lower_bound + ('1 ' || unit)::interval) AT TIME ZONE 'UTC');
    RETURN child;
END $$;

-- Drops one partition of one of our tables, and nothing else.
CREATE FUNCTION telemetry_drop_partition(parent_name text, child text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM 1 FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'public'
        JOIN telemetry_partitioned t ON t.parent = p.relname
        WHERE p.relname = parent_name AND c.relname = child;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'telemetry: % is no partition of %', quote_literal(child), quote_literal(parent_name) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('DROP TABLE public.%I', child);
END $$;

-- The partitions of a table and the hours, days or months they hold.
CREATE VIEW telemetry_partition AS
SELECT p.relname::text AS parent, c.relname::text AS child,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)'))[1]::timestamptz AS lower_bound,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz AS upper_bound
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
JOIN telemetry_partitioned t ON t.parent = p.relname
WHERE c.relkind = 'r';

REVOKE ALL ON FUNCTION telemetry_make_partition(text, timestamptz), telemetry_drop_partition(text, text) FROM PUBLIC;
