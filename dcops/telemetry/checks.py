"""Misconfiguration of telemetry that a start must stop at."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections

from dcops.telemetry.durability import weaknesses


@register(Tags.database)
def check_durability(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """telemetry.E001: an acknowledged batch must outlive a crash of the database's machine."""
    found: list[CheckMessage] = []
    for alias in databases or []:
        with connections[alias].cursor() as cursor:
            sentences = weaknesses(partial(_show, cursor))
            found += [Error(sentence, id="telemetry.E001") for sentence in sentences]
    return found


def _show(cursor: Any, name: str) -> str:
    cursor.execute("SELECT current_setting(%s)", (name,))
    return str(cursor.fetchone()[0])
