"""Reads of telemetry: series, newest rows, events, gaps, quarantine. Access to the node or GPU is checked by the caller."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from django.conf import settings
from django.db import connection, transaction
from psycopg import sql

from dcops.domain.metrics import GPU_SAMPLE, TABLE_BY_NAME, Metric, SampleTable
from dcops.fleet.models import Gpu
from dcops.telemetry import chunk, grid, store
from dcops.telemetry.grid import Readings
from dcops.telemetry.latest import Latest
from dcops.telemetry.rows import I4, Rows, table_dtype
from dcops.telemetry.schema import HOUR_S, MINUTE_S, averaged, rollup_columns, rollup_table
from dcops.telemetry.stored import Kind, Stored, kinds

T = TypeVar("T")

MAX_POINTS = 10_000
LATEST_WITHIN = timedelta(minutes=5)
TAIL = timedelta(minutes=15)  # how far rollups may trail the newest rows before a chart shows it


@dataclass(frozen=True, slots=True)
class Series:
    """Readings of one subject on a regular grid.

    t_us: int64[n], the start of each bucket. columns: metric -> avg, min, max, last -> float64[n], NaN where nothing was read.
    """

    step_s: int
    source: grid.Source
    t_us: npt.NDArray[np.int64]
    columns: dict[str, dict[str, npt.NDArray[np.float64]]]


def series(
    table: str,
    subject_id: int,
    metrics: Sequence[str],
    start: datetime,
    end: datetime,
    max_points: int,
    now: datetime,
    step_s: int | None = None,
) -> Series:
    """Read metrics of a GPU or node over [start, end) with at most `max_points` points, at least `step_s` apart.

    Short windows come from rows, longer ones from minutes or hours. Raises KeyError for an unknown table or metric,
    ValueError for an empty window or no points.
    """
    if end <= start or not 1 <= max_points <= MAX_POINTS:
        raise ValueError("the window is empty, or the number of points out of range")
    sample_table = TABLE_BY_NAME[table]
    wanted = [sample_table.metric(name) for name in metrics]
    limits = settings.TELEMETRY
    source = grid.choose(
        (end - start).total_seconds(),
        (now - start).total_seconds(),
        limits["raw_days"] * 86400,
        limits["minute_days"] * 86400,
        step_s,
    )
    smallest = max(step_s or 1, grid.SOURCE_STEP_S[source], int(sample_table.every_s))
    fitted = grid.fit(_us(start), _us(end), max_points, smallest)
    read = _raw_readings if source == "raw" else _rollup_readings
    with _snapshot(sample_table):
        readings = read(sample_table, subject_id, wanted, start, end, source)
    columns = {
        metric.name: grid.aggregate(fitted, readings[metric.name], averaged=averaged(metric))
        for metric in wanted
    }
    return Series(fitted.step_s, source, fitted.t_us, columns)


@contextmanager
def _snapshot(table: SampleTable) -> Iterator[None]:
    """One view of rows, late rows and chunks: the packer cannot drop an hour's rows before this ends."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Before the first query, which fixes the snapshot.
        cursor.execute(f"LOCK TABLE ONLY {table.name} IN ACCESS SHARE MODE")
        yield


def _raw_readings(
    table: SampleTable,
    subject_id: int,
    metrics: Sequence[Metric],
    start: datetime,
    end: datetime,
    source: str = "raw",
) -> dict[str, Readings]:
    del source
    parts = [
        _stored(table.name, table, metrics, subject_id, start, end),
        _stored(f"{table.name}_late", table, metrics, subject_id, start, end),
    ]
    parts += _chunk_rows(table, subject_id, metrics, start, end)
    return {
        metric.name: grid.gather([_single(part, metric.name) for part in parts])
        for metric in metrics
    }


def _stored(
    name: str,
    table: SampleTable,
    metrics: Sequence[Metric],
    subject_id: int,
    start: datetime,
    end: datetime,
) -> Stored:
    with store.native_cursor() as cursor:
        return store.read_rows(
            cursor, name, kinds(metrics), store.between("at", start, end, [subject_id])
        )


def _single(part: Stored, name: str) -> Readings:
    column = part.columns[name]
    values = column.values[column.present].astype(np.float64)
    return Readings(
        part.at_us[column.present], values, values, values, values, np.ones(len(values))
    )


def _chunk_rows(
    table: SampleTable, subject_id: int, metrics: Sequence[Metric], start: datetime, end: datetime
) -> list[Stored]:
    """Read, of each packed hour, only the slices of the time and of these metrics."""
    with connection.cursor() as cursor:
        cursor.execute(
            store.named("chunk_headers"),
            {"code": table.code, "subject": subject_id, "start": start, "end": end},
        )
        headers = cursor.fetchall()
    places = []
    for number, (hour, _count, header, names) in enumerate(headers):
        for name, place in zip(("at", *names), chunk.slices(bytes(header)), strict=True):
            if name == "at" or any(name == metric.name for metric in metrics):
                places.append((number, hour, name, place))
    data = _chunk_slices(table, subject_id, places)
    return [
        _decoded(headers[number][1], found, metrics, subject_id)
        for number, found in sorted(data.items())
    ]


def _chunk_slices(
    table: SampleTable, subject_id: int, places: Sequence[tuple[int, datetime, str, chunk.Slice]]
) -> dict[int, dict[str, tuple[int, bytes]]]:
    if not places:
        return {}
    with store.native_cursor() as cursor:
        cursor.execute(
            store.named("chunk_slices"),
            {
                "code": table.code,
                "subject": subject_id,
                "hours": [hour for _, hour, _, _ in places],
                "offsets": [place.offset + 1 for *_, place in places],
                "lengths": [place.length for *_, place in places],
            },
            binary=True,
        )
        found = cursor.fetchall()
    data: dict[int, dict[str, tuple[int, bytes]]] = {}
    for position, piece in found:
        number, _, name, place = places[position - 1]
        data.setdefault(number, {})[name] = (place.encoding, bytes(piece))
    return data


def _decoded(
    count: int, found: dict[str, tuple[int, bytes]], metrics: Sequence[Metric], subject_id: int
) -> Stored:
    at_us = chunk.decode(*found["at"], count, floats=False).values
    columns = {
        # A metric younger than the chunk has no slice in it.
        metric.name: chunk.decode(
            *found.get(metric.name, (chunk.ABSENT, b"")), count, floats=metric.column == "float4"
        )
        for metric in metrics
    }
    return Stored(np.full(count, subject_id, I4), at_us, columns)


def _rollup_readings(
    table: SampleTable,
    subject_id: int,
    metrics: Sequence[Metric],
    start: datetime,
    end: datetime,
    source: str,
) -> dict[str, Readings]:
    """Read a rollup, and where it does not reach to the newest rows yet, what it is made from."""
    step_s = MINUTE_S if source == "minute" else HOUR_S
    first = _floor(start, step_s)
    stored = _rollup_rows(rollup_table(table, step_s), metrics, subject_id, first, end)
    readings = {metric.name: _rolled(stored, metric) for metric in metrics}
    edge = _after(stored, step_s, first)
    if edge >= end:
        return readings
    if source == "hour":
        rest = _rollup_readings(
            table,
            subject_id,
            metrics,
            max(edge, _floor(end, HOUR_S) - 2 * timedelta(hours=1)),
            end,
            "minute",
        )
    else:
        rest = _raw_readings(table, subject_id, metrics, max(edge, end - TAIL), end)
    return {name: grid.gather([part, rest[name]]) for name, part in readings.items()}


def _rollup_rows(
    name: str, metrics: Sequence[Metric], subject_id: int, start: datetime, end: datetime
) -> Stored:
    columns = [kind for metric in metrics for kind in _rollup_kinds(metric)]
    with store.native_cursor() as cursor:
        return store.read_rows(
            cursor, name, columns, store.between("bucket", start, end, [subject_id]), time="bucket"
        )


_KIND = {
    "smallint": "int2",
    "int": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
}


def _rollup_kinds(metric: Metric) -> list[Kind]:
    return [(column, _KIND[kind]) for column, kind in rollup_columns(metric)]


def _rolled(stored: Stored, metric: Metric) -> Readings:
    def column(suffix: str) -> npt.NDArray[np.float64]:
        found = stored.columns[f"{metric.name}_{suffix}"]
        return np.where(found.present, found.values.astype(np.float64), np.nan)

    last = column("last")
    return Readings(
        stored.at_us,
        column("min"),
        column("max"),
        column("avg") if averaged(metric) else last,
        last,
        np.nan_to_num(column("n")),
    )


def _after(stored: Stored, step_s: int, otherwise: datetime) -> datetime:
    if not len(stored):
        return otherwise
    return datetime.fromtimestamp(int(stored.at_us[-1]) / 1e6 + step_s, tz=UTC)


def _floor(moment: datetime, step_s: int) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // step_s * step_s, tz=UTC)


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


# -- the newest rows


def latest(table: SampleTable, now: datetime) -> Latest:
    """The newest row of every subject that reported within LATEST_WITHIN: a snapshot for live.SamplesStored to continue."""
    found = Latest(table)
    listed = ", ".join(table.names)
    since = now - max(LATEST_WITHIN, timedelta(seconds=4 * table.every_s))
    query = sql.SQL(
        "SELECT r.subject_id, r.at, {columns} FROM {fleet} f CROSS JOIN LATERAL (SELECT subject_id, at, {listed} FROM {name} "
        "WHERE subject_id = f.id AND at > {since} ORDER BY at DESC LIMIT 1) r"
    ).format(
        columns=sql.SQL(
            ", ".join(
                f"coalesce(r.{name}, {null})" for name, null in store.nulls(kinds(table.metrics))
            )
        ),
        fleet=sql.Identifier("fleet_gpu" if table.subject == "gpu" else "fleet_node"),
        listed=sql.SQL(listed),
        name=sql.Identifier(table.name),
        since=sql.Literal(since),
    )
    with transaction.atomic(), store.native_cursor() as cursor:
        stored = store.copy_out(cursor, query, kinds(table.metrics))
    rows = as_rows(table, stored)
    found.update(rows.subject_ids, rows.at_us, rows.data)
    return found


def as_rows(table: SampleTable, stored: Stored) -> Rows:
    """Columns as packed rows."""
    data = np.zeros(len(stored), table_dtype(table))
    for position, metric in enumerate(table.metrics):
        column = stored.columns[metric.name]
        data[metric.name] = np.where(column.present, column.values, 0)
        data["present"] |= column.present.astype(np.uint64) << np.uint64(position)
    return Rows(
        table,
        stored.subject_ids,
        stored.at_us,
        data["present"].copy(),
        data,
        np.zeros(len(stored), I4),
    )


def energy_today_kwh(start_of_day: datetime, now: datetime) -> float:
    """Energy of all GPUs since then, from the counters' growth each minute; a counter that fell (driver reload) counts as 0."""
    name = rollup_table(GPU_SAMPLE, MINUTE_S)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT coalesce(sum(greatest(energy_mj_max - energy_mj_min, 0)), 0) FROM {name} WHERE bucket >= %s AND bucket < %s",  # noqa: S608
            (start_of_day, now),
        )
        return float(cursor.fetchone()[0]) / 3.6e9


# -- events, gaps, quarantine, states


class EventRow(msgspec.Struct, frozen=True):
    """One stored event with the names of what it happened to."""

    id: int
    at: datetime
    node_id: int
    node: str
    gpu_id: int | None
    gpu: str | None
    gpu_index: int | None
    kind: str
    severity: str
    code: int | None
    message: str
    source: str
    simulated: bool


class GapRow(msgspec.Struct, frozen=True):
    """Records first_seq..last_seq of a spool that never arrived."""

    id: int
    node_id: int
    node: str
    spool_id: str
    first_seq: int
    last_seq: int
    first_at: datetime | None
    last_at: datetime | None
    reason: str
    received_at: datetime


class QuarantineRow(msgspec.Struct, frozen=True):
    """Records of one batch that could not be read, and why."""

    id: int
    at: datetime
    node_id: int
    node: str
    spool_id: str
    first_seq: int
    records: int
    reason: str
    payload_bytes: int


class NodeStateRow(msgspec.Struct, frozen=True):
    """What a node said last, and when it was last heard."""

    node_id: int
    last_received_at: datetime | None
    at: datetime | None
    processes: list[dict[str, Any]]
    findings: list[dict[str, Any]]


def recent_events(
    limit: int,
    node_id: int | None = None,
    gpu_id: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[EventRow]:
    """Events, newest first, of one node or GPU if given, in [start, end) if given."""
    return _rows(
        EventRow, "events", limit=limit, node_id=node_id, gpu_id=gpu_id, start=start, end=end
    )


def gaps(limit: int, node_id: int | None = None) -> list[GapRow]:
    """Gaps, newest first."""
    return _rows(GapRow, "gaps", limit=limit, node_id=node_id)


def quarantine_recent(limit: int, node_id: int | None = None) -> list[QuarantineRow]:
    """What could not be read, newest first."""
    return _rows(QuarantineRow, "quarantine", limit=limit, node_id=node_id)


def node_states(node_ids: Sequence[int] | None = None) -> dict[int, NodeStateRow]:
    """What nodes said last, by node id; of all nodes if None."""
    wanted = None if node_ids is None else list(node_ids)
    return {row.node_id: row for row in _rows(NodeStateRow, "node_states", node_ids=wanted)}


def last_received() -> dict[int, datetime]:
    """When each node's newest batch was committed, by node id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT node_id, max(last_received_at) FROM telemetry_spool WHERE kind = 'metrics' GROUP BY node_id"
        )
        return dict(cursor.fetchall())


def _rows(kind: type[T], name: str, **parameters: Any) -> list[T]:
    with connection.cursor() as cursor:
        cursor.execute(store.named(name), parameters)
        columns = [column.name for column in cursor.description]
        found = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return [msgspec.convert(_decoded_json(row), kind) for row in found]


def _decoded_json(row: dict[str, Any]) -> dict[str, Any]:
    # Django leaves jsonb as text.
    return {
        name: msgspec.json.decode(value) if name in ("processes", "findings") else value
        for name, value in row.items()
    }


# -- for ingest


def gpus_by_uuid(uuids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (id, node id) of the GPUs known among these UUIDs."""
    found = Gpu.objects.filter(uuid__in=[uuid for uuid in uuids if "\0" not in uuid])
    return {
        uuid: (pk, node_id) for uuid, pk, node_id in found.values_list("uuid", "id", "node_id")
    }


def disk_is_full() -> bool:
    """Whether metrics must be refused: the database outgrew its budget, or the disk has too little left."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size = int(cursor.fetchone()[0])
    usage = shutil.disk_usage(settings.DATA_DIR) if settings.DATA_DIR.exists() else None
    limits = settings.TELEMETRY
    return over_budget(
        size,
        usage.free / usage.total if usage else 1.0,
        limits["disk_budget_bytes"],
        limits["disk_free_min_percent"],
    )


def over_budget(
    size_bytes: int, free_share: float, budget_bytes: int, free_min_percent: int
) -> bool:
    """The rule of `disk_is_full`."""
    return size_bytes > budget_bytes or free_share * 100 < free_min_percent
