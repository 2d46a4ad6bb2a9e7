"""The SQL of rollups, built from the metric registry. Pure text.

Each statement recomputes whole buckets from what is stored and replaces them, so running it again changes nothing.
Parameters: bucket (its start), subjects (int[] or null for all).
"""

from functools import lru_cache

from dcops.domain.metrics import TABLE_BY_NAME, Metric, SampleTable
from dcops.telemetry.schema import HOUR_S, MINUTE_S, averaged, rollup_columns, rollup_table

_SUBJECTS = "(%(subjects)s::int[] IS NULL OR subject_id = ANY(%(subjects)s::int[]))"


@lru_cache(maxsize=64)
def statement(table_name: str, step_s: int) -> str:
    """Return the statement that recomputes one bucket of a rollup."""
    table = TABLE_BY_NAME[table_name]
    return _minute(table) if step_s == MINUTE_S else _hour(table)


def _minute(table: SampleTable) -> str:
    name = table.name
    within = f"at >= %(bucket)s::timestamptz AND at < %(bucket)s::timestamptz + interval '1 minute' AND {_SUBJECTS}"
    listed = ", ".join(("subject_id", "at", *table.names))
    measures = ", ".join(_from_row(metric) for metric in table.metrics)
    lasts = ", ".join(table.names)
    newest = " UNION ALL ".join(
        f"(SELECT {lasts} FROM {each} WHERE subject_id = a.subject_id AND at = a.newest LIMIT 1)"
        for each in (name, f"{name}_late")
    )
    return (
        f"WITH a AS (SELECT subject_id, max(at) AS newest, count(*)::int AS row_count, {measures} FROM ("
        f"SELECT {listed} FROM {name} WHERE {within} UNION ALL SELECT {listed} FROM {name}_late WHERE {within}"
        f") r GROUP BY subject_id) "
        f"{_insert(table, MINUTE_S)} FROM a CROSS JOIN LATERAL ({newest} LIMIT 1) l {_replace(table)}"
    )


def _hour(table: SampleTable) -> str:
    minutes = rollup_table(table, MINUTE_S)
    within = f"bucket >= %(bucket)s::timestamptz AND bucket < %(bucket)s::timestamptz + interval '1 hour' AND {_SUBJECTS}"
    measures = ", ".join(_from_minute(metric) for metric in table.metrics)
    lasts = ", ".join(f"{metric.name}_last AS {metric.name}" for metric in table.metrics)
    return (
        f"WITH a AS (SELECT subject_id, max(bucket) AS newest, sum(row_count)::int AS row_count, {measures} "
        f"FROM {minutes} WHERE {within} GROUP BY subject_id) "
        f"{_insert(table, HOUR_S)} FROM a CROSS JOIN LATERAL "
        f"(SELECT {lasts} FROM {minutes} WHERE subject_id = a.subject_id AND bucket = a.newest) l {_replace(table)}"
    )


def _from_row(metric: Metric) -> str:
    name = metric.name
    mean = f", avg({name}) AS {name}_avg" if averaged(metric) else ""
    return f"min({name}) AS {name}_min, max({name}) AS {name}_max{mean}, count({name})::int AS {name}_n"


def _from_minute(metric: Metric) -> str:
    name = metric.name
    weighted = f"sum({name}_avg::float8 * {name}_n) / nullif(sum({name}_n), 0)"
    mean = f", {weighted} AS {name}_avg" if averaged(metric) else ""
    return f"min({name}_min) AS {name}_min, max({name}_max) AS {name}_max{mean}, sum({name}_n)::int AS {name}_n"


def _insert(table: SampleTable, step_s: int) -> str:
    columns, values = (
        ["subject_id", "bucket", "row_count"],
        ["a.subject_id", "%(bucket)s::timestamptz", "a.row_count"],
    )
    for metric in table.metrics:
        for column, _ in rollup_columns(metric):
            columns.append(column)
            values.append(f"l.{metric.name}" if column == f"{metric.name}_last" else f"a.{column}")
    return f"INSERT INTO {rollup_table(table, step_s)} ({', '.join(columns)}) SELECT {', '.join(values)}"


def _replace(table: SampleTable) -> str:
    columns = [
        "row_count",
        *(column for metric in table.metrics for column, _ in rollup_columns(metric)),
    ]
    return "ON CONFLICT (subject_id, bucket) DO UPDATE SET " + ", ".join(
        f"{c} = excluded.{c}" for c in columns
    )
