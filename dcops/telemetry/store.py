"""The SQL of telemetry that the ORM cannot say, one sentence each. Decides nothing."""

import functools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection
from psycopg import sql

from dcops.telemetry.stored import Kind, Stored, null_of, parse, select_list

SQL = Path(__file__).resolve().parent / "sql"


@functools.cache
def named(name: str) -> sql.SQL:
    """Return the statement in sql/<name>.sql."""
    return sql.SQL((SQL / f"{name}.sql").read_text(encoding="utf-8"))


def connect(application_name: str, **options: Any) -> psycopg.Connection[Any]:
    """Open a connection of its own to Django's database, outside its pool. Raises psycopg.OperationalError."""
    settings = connection.settings_dict
    wanted = {
        "host": settings["HOST"],
        "port": settings["PORT"],
        "user": settings["USER"],
        "password": settings["PASSWORD"],
        "dbname": settings["NAME"],
    }
    return psycopg.connect(
        **{key: value for key, value in wanted.items() if value},
        application_name=application_name,
        connect_timeout=10,
        options="-c timezone=UTC -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s",
        **options,
    )


def native_cursor() -> psycopg.Cursor[Any]:
    """A psycopg cursor on Django's current connection and in its transaction: for COPY and binary results."""
    connection.ensure_connection()
    return psycopg.Cursor(connection.connection)


def read_rows(
    cursor: psycopg.Cursor[Any],
    source: str,
    columns: Sequence[Kind],
    condition: sql.Composable,
    time: str = "at",
) -> Stored:
    """Read rows of a table in bulk, by subject and time."""
    query = sql.SQL("SELECT {columns} FROM {source} WHERE {condition} ORDER BY subject_id, {time}")
    composed = query.format(
        columns=sql.SQL(select_list(columns, time)),
        source=sql.Identifier(source),
        condition=condition,
        time=sql.Identifier(time),
    )
    return copy_out(cursor, composed, columns)


def copy_out(
    cursor: psycopg.Cursor[Any], query: sql.Composable, columns: Sequence[Kind]
) -> Stored:
    """Read a query with the SELECT list of `stored.select_list` in bulk."""
    with cursor.copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)) as copy:
        return parse(iter(copy), columns)


def nulls(columns: Sequence[Kind]) -> list[tuple[str, str]]:
    """Each column with the value that stands for NULL in a bulk read."""
    return [(name, null_of(kind)) for name, kind in columns]


def between(time: str, start: datetime, end: datetime, subjects: Sequence[int]) -> sql.Composable:
    """The condition for rows of some subjects in [start, end)."""
    return sql.SQL("{time} >= {start} AND {time} < {end} AND subject_id = ANY({subjects})").format(
        time=sql.Identifier(time),
        start=sql.Literal(start),
        end=sql.Literal(end),
        subjects=sql.Literal(list(subjects)),
    )


def make_partition(cursor: Any, parent: str, moment: datetime) -> None:
    """Make the partition of `parent` that holds this moment, if it is not there."""
    cursor.execute("SELECT telemetry_make_partition(%s, %s)", (parent, moment))


def drop_partition(cursor: Any, parent: str, child: str) -> None:
    """Drop a partition, waiting at most two seconds for readers. Raises psycopg.errors.LockNotAvailable."""
    cursor.execute("SET LOCAL lock_timeout = '2s'")
    cursor.execute("SELECT telemetry_drop_partition(%s, %s)", (parent, child))


def partitions(cursor: Any, parent: str) -> list[tuple[str, datetime, datetime]]:
    """Return (name, first moment, first moment after) of each partition, oldest first."""
    cursor.execute(
        "SELECT child, lower_bound, upper_bound FROM telemetry_partition WHERE parent = %s ORDER BY lower_bound",
        (parent,),
    )
    return [tuple(row) for row in cursor.fetchall()]
