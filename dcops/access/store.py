"""SQL of access control that the ORM cannot say."""

from datetime import datetime
from pathlib import Path

from django.db.backends.base.base import BaseDatabaseWrapper

SQL = Path(__file__).parent / "sql"


def grant_app_role(connection: BaseDatabaseWrapper) -> None:
    """Give dcops_app its least rights on all tables. Run as the owner after every migrate; harmless to repeat."""
    with connection.cursor() as cursor:
        cursor.execute((SQL / "grants.sql").read_text(encoding="utf-8"))


def count_failure(
    connection: BaseDatabaseWrapper, key: bytes, now: datetime, ends: datetime
) -> None:
    """Add one failed sign-in to the key's window, opening a new window where the old one has ended."""
    with connection.cursor() as cursor:
        cursor.execute(
            (SQL / "count_failure.sql").read_text(encoding="utf-8"),
            {"key": key, "now": now, "ends": ends},
        )
