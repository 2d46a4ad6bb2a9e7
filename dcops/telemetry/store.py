"""The SQL of telemetry that the ORM cannot say, one sentence each. Decides nothing."""

import functools
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection

SQL = Path(__file__).resolve().parent / "sql"


@functools.cache
def named(name: str) -> bytes:
    """Return the statement in sql/<name>.sql."""
    return (SQL / f"{name}.sql").read_bytes()


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
