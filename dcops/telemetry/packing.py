"""Old hours become chunks: read an hour's rows, encode each subject's, and switch readers over in one short transaction.

An hour older than the row hours never changes in the row table, for ingest puts later rows beside it (<table>_late). Those
are merged into the chunk afterwards, rollups included. A reader sees each row exactly once at every moment: chunks count
only for hours in telemetry_packed, and that entry is made in the transaction that drops the rows.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from django.db import OperationalError, connection, transaction
from psycopg import sql

from dcops.domain.metrics import TABLES, SampleTable
from dcops.telemetry import chunk, rollup, store
from dcops.telemetry.chunk import Column
from dcops.telemetry.rows import I4, Rows, copy_blocks, copy_columns, table_dtype
from dcops.telemetry.schema import HOUR_S, MINUTE_S, rollup_table
from dcops.telemetry.stored import Stored, kinds

logger = logging.getLogger(__name__)

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
MARGIN = timedelta(minutes=10)  # longer than any ingest transaction may last
SUBJECTS_AT_ONCE = 64
LOCKS = {"roll_up": 7_301, "pack": 7_302, "hours": 7_303}


@contextmanager
def alone(task: str) -> Iterator[bool]:
    """Whether nobody else does this now; holds the place until the end of the block."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (LOCKS[task],))
        mine = bool(cursor.fetchone()[0])
        try:
            yield mine
        finally:
            if mine:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (LOCKS[task],))


def pack(now: datetime, row_hours: int) -> int:
    """Pack every hour that is due and merge what came late. Returns the number of hours touched."""
    with alone("pack") as mine:
        if not mine:
            return 0
        before = now - timedelta(hours=row_hours) - MARGIN
        packed = sum(_pack_due_hours(table, before) for table in TABLES)
        return packed + sum(_merge_late(table) for table in TABLES)


def _pack_due_hours(table: SampleTable, before: datetime) -> int:
    with connection.cursor() as cursor:
        held = [
            lower for _, lower, upper in store.partitions(cursor, table.name) if upper <= before
        ]
        cursor.execute(
            sql.SQL("SELECT DISTINCT date_trunc('hour', at, 'UTC') FROM {} WHERE at < %s").format(
                sql.Identifier(f"{table.name}_late")
            ),
            (before - HOUR,),
        )
        beside = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT hour FROM telemetry_packed WHERE table_code = %s", (table.code,))
        packed = {row[0] for row in cursor.fetchall()}
    due = sorted({*held, *beside} - packed)
    return sum(pack_hour(table, hour) for hour in due)


def pack_hour(table: SampleTable, hour: datetime) -> bool:
    """Pack one hour. False if its rollups are not done or a reader is in the way; the next run tries again."""
    with connection.cursor() as cursor:
        if _rollups_due(cursor, table, hour):
            return False
        store.make_partition(cursor, "telemetry_chunk", hour)
    counts = [0, 0, 0]
    for subjects in _batches(_subjects(table.name, hour)):
        with transaction.atomic():
            stored = _read(table, table.name, hour, subjects)
            for number, count in enumerate(_write_chunks(table, hour, stored)):
                counts[number] += count
    try:
        return _switch(table, hour, counts)
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            return False
        raise


def _switch(table: SampleTable, hour: datetime, counts: Sequence[int]) -> bool:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS["hours"], table.code))
        if _rollups_due(cursor, table, hour):
            return False
        cursor.execute(
            "INSERT INTO telemetry_packed (table_code, hour, packed_at, row_count, value_count, byte_count) VALUES (%s, %s, now(), %s, %s, %s)",
            (table.code, hour, *counts),
        )
        for name, lower, _ in store.partitions(cursor, table.name):
            if lower == hour:
                store.drop_partition(cursor, table.name, name)
    return True


def _rollups_due(cursor: Any, table: SampleTable, hour: datetime) -> bool:
    cursor.execute(
        "SELECT 1 FROM telemetry_rollup_due WHERE step_s = 60 AND bucket >= %s AND bucket < %s AND table_code = %s LIMIT 1",
        (hour, hour + HOUR, table.code),
    )
    return cursor.fetchone() is not None


# -- late rows of packed hours


def _merge_late(table: SampleTable) -> int:
    late = f"{table.name}_late"
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "SELECT DISTINCT p.hour FROM telemetry_packed p WHERE p.table_code = %s AND EXISTS "
                "(SELECT 1 FROM {} l WHERE l.at >= p.hour AND l.at < p.hour + interval '1 hour') ORDER BY 1"
            ).format(sql.Identifier(late)),
            (table.code,),
        )
        hours = [row[0] for row in cursor.fetchall()]
    for hour in hours:
        with connection.cursor() as cursor:
            for name in ("telemetry_chunk", rollup_table(table, MINUTE_S)):
                store.make_partition(cursor, name, hour)
        for subjects in _batches(_subjects(late, hour)):
            _merge(table, hour, subjects)
        _forget_marks(table, hour)
    return len(hours)


def _merge(table: SampleTable, hour: datetime, subjects: list[int]) -> None:
    """Unpack these subjects beside their late rows, roll their minutes up, and pack all of it again: one transaction.

    Repeatable read: rows that come meanwhile are neither rolled up, packed nor deleted here.
    """
    late = f"{table.name}_late"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        came = _read(table, late, hour, subjects)
        minutes = sorted({int(minute) for minute in np.unique(came.at_us // 60_000_000)})
        for rows in unpacked(table, hour, subjects):
            _copy_in(late, rows)
        whole = _read(table, late, hour, subjects)
        for minute in minutes:
            bucket = datetime.fromtimestamp(minute * 60, tz=hour.tzinfo)
            cursor.execute(
                rollup.statement(table.name, MINUTE_S), {"bucket": bucket, "subjects": subjects}
            )
        _write_chunks(table, hour, whole)
        cursor.execute(
            sql.SQL("DELETE FROM {} WHERE at >= %s AND at < %s AND subject_id = ANY(%s)").format(
                sql.Identifier(late)
            ),
            (hour, hour + HOUR, subjects),
        )
        mark_hour(cursor, table, hour, subjects)


def _forget_marks(table: SampleTable, hour: datetime) -> None:
    """Marks of a packed hour whose late rows are all merged have nothing left to say."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute(
            sql.SQL("SELECT 1 FROM {} WHERE at >= %s AND at < %s LIMIT 1").format(
                sql.Identifier(f"{table.name}_late")
            ),
            (hour, hour + HOUR),
        )
        if cursor.fetchone() is None:
            cursor.execute(
                "DELETE FROM telemetry_rollup_due WHERE step_s = 60 AND bucket >= %s AND bucket < %s AND table_code = %s",
                (hour, hour + HOUR, table.code),
            )


def mark_hour(
    cursor: Any, table: SampleTable, hour: datetime, subjects: Sequence[int] | None
) -> None:
    """Say that an hour's rollup is out of date, of some subjects or of all."""
    cursor.execute(
        "INSERT INTO telemetry_rollup_due (table_code, step_s, bucket, subject_id, marked_at) "
        "SELECT %s, %s, %s, unnest(%s::int[]), now()",
        (table.code, HOUR_S, hour, [None] if subjects is None else list(subjects)),
    )


def unpacked(table: SampleTable, hour: datetime, subjects: Sequence[int]) -> Iterator[Rows]:
    """Yield the chunks of these subjects as rows again."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.subject_id, c.row_count, c.header, c.body, l.columns FROM telemetry_chunk c "
            "JOIN telemetry_chunk_layout l ON l.id = c.layout_id WHERE c.table_code = %s AND c.hour = %s AND c.subject_id = ANY(%s)",
            (table.code, hour, list(subjects)),
        )
        found = cursor.fetchall()
    for subject, count, header, body, names in found:
        yield _unpack(table, subject, count, bytes(header), bytes(body), names)


def _unpack(
    table: SampleTable, subject: int, count: int, header: bytes, body: bytes, names: Sequence[str]
) -> Rows:
    places = dict(zip(("at", *names), chunk.slices(header), strict=True))
    data = np.zeros(count, table_dtype(table))
    present = np.zeros(count, np.uint64)

    def column(name: str, floats: bool) -> Column:
        place = places[name]
        return chunk.decode(
            place.encoding, body[place.offset : place.offset + place.length], count, floats=floats
        )

    for position, metric in enumerate(table.metrics):
        if metric.name in places:
            found = column(metric.name, metric.column == "float4")
            data[metric.name] = found.values
            present |= found.present.astype(np.uint64) << np.uint64(position)
    at_us = column("at", floats=False).values
    return Rows(table, np.full(count, subject, I4), at_us, present, data, np.zeros(count, I4))


def _copy_in(name: str, rows: Rows) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(name), sql.SQL(copy_columns(rows.table))
    )
    with store.native_cursor() as cursor, cursor.copy(statement) as copy:
        for block in copy_blocks(rows):
            copy.write(block)


# -- reading and writing


def _subjects(name: str, hour: datetime) -> list[int]:
    """The subjects with rows in an hour, found by skipping through the index."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "WITH RECURSIVE s AS ((SELECT min(subject_id) AS id FROM {t} WHERE {w}) UNION ALL "
                "SELECT (SELECT min(subject_id) FROM {t} WHERE subject_id > s.id AND {w}) FROM s WHERE s.id IS NOT NULL) "
                "SELECT id FROM s WHERE id IS NOT NULL"
            ).format(
                t=sql.Identifier(name),
                w=sql.SQL("at >= {} AND at < {}").format(
                    sql.Literal(hour), sql.Literal(hour + HOUR)
                ),
            )
        )
        return [row[0] for row in cursor.fetchall()]


def _batches(subjects: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(subjects), SUBJECTS_AT_ONCE):
        yield subjects[start : start + SUBJECTS_AT_ONCE]


def _read(table: SampleTable, name: str, hour: datetime, subjects: Sequence[int]) -> Stored:
    with store.native_cursor() as cursor:
        return store.read_rows(
            cursor, name, kinds(table.metrics), store.between("at", hour, hour + HOUR, subjects)
        )


def _write_chunks(table: SampleTable, hour: datetime, stored: Stored) -> tuple[int, int, int]:
    """Write one chunk a subject; returns rows, values and bytes written."""
    layout = _layout_id(table)
    edges = np.flatnonzero(np.diff(stored.subject_ids)) + 1
    chunks = []
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(stored)], strict=True):
        if start == stop:
            continue
        part = slice(start, stop)
        header, body = chunk.encode(_columns(stored, part))
        chunks.append(
            (hour, table.code, int(stored.subject_ids[start]), layout, stop - start, header, body)
        )
    with store.native_cursor() as cursor:
        cursor.executemany(store.named("put_chunk"), chunks)
    values = sum(int(np.count_nonzero(column.present)) for column in stored.columns.values())
    return len(stored), values, sum(len(c[5]) + len(c[6]) for c in chunks)


def _columns(stored: Stored, part: slice) -> list[Column]:
    time = stored.at_us[part]
    return [
        Column(time, np.ones(len(time), bool)),
        *(Column(column.values[part], column.present[part]) for column in stored.columns.values()),
    ]


def _layout_id(table: SampleTable) -> int:
    names = list(table.names)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO telemetry_chunk_layout (table_code, columns) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (table.code, names),
        )
        cursor.execute(
            "SELECT id FROM telemetry_chunk_layout WHERE table_code = %s AND columns = %s",
            (table.code, names),
        )
        return int(cursor.fetchone()[0])
