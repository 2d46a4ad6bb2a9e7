"""The SQL that follows from the metric registry: sample tables, their rollups, and the views Grafana may read.

Pure text builders. A metric added to dcops.domain.metrics becomes a column of each table here by `dcops migrate`.
"""

from collections.abc import Iterator

from dcops.domain.metrics import TABLES, Kind, Metric, SampleTable

ROLES = {"app": "dcops_app", "grafana": "dcops_grafana"}
MINUTE_S, HOUR_S = 60, 3600
ROLLUPS = {MINUTE_S: "minute", HOUR_S: "hour"}

_SQL_TYPE = {"int2": "smallint", "int4": "int", "int8": "bigint", "float4": "real"}


def rollup_table(table: SampleTable, step_s: int) -> str:
    """Name of the rollup table with buckets of that many seconds. Raises KeyError if there is none."""
    return f"{table.name}_{ROLLUPS[step_s]}"


def averaged(metric: Metric) -> bool:
    """Whether a mean of this metric says something: not of a running total, a state or a set of bits."""
    return metric.kind is Kind.GAUGE


def rollup_columns(metric: Metric) -> list[tuple[str, str]]:
    """(column, SQL type) of a metric's statistics in a rollup table."""
    own = _SQL_TYPE[metric.column]
    mean = "double precision" if metric.column == "int8" else "real"
    columns = [(f"{metric.name}_min", own), (f"{metric.name}_max", own)]
    if averaged(metric):
        columns.append((f"{metric.name}_avg", mean))
    return [*columns, (f"{metric.name}_last", own), (f"{metric.name}_n", "int")]


def statements() -> Iterator[str]:
    """Yield the statements that bring the tables up to the registry. Each may run again."""
    for table in TABLES:
        yield from _sample_statements(table)
        for step_s in ROLLUPS:
            yield from _rollup_statements(table, step_s)
    yield from _grant_statements()
    yield from _grafana_statements()


def _sample_statements(table: SampleTable) -> Iterator[str]:
    name = table.name
    key = "subject_id int NOT NULL, at timestamptz NOT NULL"
    yield f"CREATE TABLE IF NOT EXISTS {name} ({key}) PARTITION BY RANGE (at)"
    yield f"CREATE TABLE IF NOT EXISTS {name}_late ({key})"
    columns = [(metric.name, _SQL_TYPE[metric.column]) for metric in table.metrics]
    yield _add_columns(name, columns)
    yield _add_columns(f"{name}_late", columns)
    yield f"CREATE INDEX IF NOT EXISTS {name}_subject ON {name} (subject_id, at)"
    yield f"CREATE INDEX IF NOT EXISTS {name}_at ON {name} USING brin (at) WITH (pages_per_range = 32, autosummarize = on)"
    yield f"CREATE INDEX IF NOT EXISTS {name}_late_subject ON {name}_late (subject_id, at)"
    yield f"CREATE INDEX IF NOT EXISTS {name}_late_at ON {name}_late (at)"
    yield f"INSERT INTO telemetry_partitioned VALUES ('{name}', 'hour') ON CONFLICT DO NOTHING"


def _rollup_statements(table: SampleTable, step_s: int) -> Iterator[str]:
    name = rollup_table(table, step_s)
    unit = "day" if step_s == MINUTE_S else "month"
    yield (
        f"CREATE TABLE IF NOT EXISTS {name} (subject_id int NOT NULL, bucket timestamptz NOT NULL, row_count int NOT NULL, "
        "PRIMARY KEY (subject_id, bucket)) PARTITION BY RANGE (bucket)"
    )
    yield _add_columns(name, [pair for metric in table.metrics for pair in rollup_columns(metric)])
    yield f"INSERT INTO telemetry_partitioned VALUES ('{name}', '{unit}') ON CONFLICT DO NOTHING"


def _add_columns(name: str, columns: list[tuple[str, str]]) -> str:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column} {kind}" for column, kind in columns)
    return f"ALTER TABLE {name} {added}"


def _grant_statements() -> Iterator[str]:
    owned = [
        "telemetry_partition",
        "telemetry_event",
        "telemetry_gap",
        "telemetry_chunk",
        "telemetry_spool",
        "telemetry_link",
        "telemetry_ingest",
    ]
    owned += [
        "telemetry_node_state",
        "telemetry_quarantine",
        "telemetry_rollup_due",
        "telemetry_packed",
        "telemetry_chunk_layout",
    ]
    for table in TABLES:
        owned += [
            table.name,
            f"{table.name}_late",
            *(rollup_table(table, step_s) for step_s in ROLLUPS),
        ]
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(owned)} TO {ROLES['app']}"
    # Who could add a table here could drop its partitions.
    yield f"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON telemetry_partitioned FROM {ROLES['app']}"
    yield (
        "GRANT EXECUTE ON FUNCTION telemetry_make_partition(text, timestamptz), telemetry_drop_partition(text, text) "
        f"TO {ROLES['app']}"
    )


def _grafana_statements() -> Iterator[str]:
    yield "CREATE SCHEMA IF NOT EXISTS grafana"
    for table in TABLES:
        subject = "gpu" if table.subject == "gpu" else "node"
        yield from _view(table.name, subject, "at", [m.name for m in table.metrics])
        for step_s in ROLLUPS:
            columns = [column for m in table.metrics for column, _ in rollup_columns(m)]
            yield from _view(rollup_table(table, step_s), subject, "bucket", columns)
    yield "DROP VIEW IF EXISTS grafana.event"
    yield (
        "CREATE VIEW grafana.event AS SELECT e.at, n.name AS node, g.uuid AS gpu, e.kind, e.severity, e.code, e.message "
        "FROM telemetry_event e JOIN fleet_node n ON n.id = e.node_id LEFT JOIN fleet_gpu g ON g.id = e.gpu_id"
    )
    yield f"GRANT USAGE ON SCHEMA grafana TO {ROLES['grafana']}"
    yield f"GRANT SELECT ON ALL TABLES IN SCHEMA grafana TO {ROLES['grafana']}"


def _view(name: str, subject: str, time: str, columns: list[str]) -> Iterator[str]:
    listed = ", ".join(f"s.{column}" for column in columns)
    yield f"DROP VIEW IF EXISTS grafana.{name}"
    if subject == "gpu":
        who = "n.name AS node, g.index AS gpu_index, g.uuid AS gpu, g.model"
        joined = "JOIN fleet_gpu g ON g.id = s.subject_id JOIN fleet_node n ON n.id = g.node_id"
    else:
        who, joined = "n.name AS node", "JOIN fleet_node n ON n.id = s.subject_id"
    yield f"CREATE VIEW grafana.{name} AS SELECT s.{time} AS time, {who}, n.simulated, {listed} FROM {name} s {joined}"
