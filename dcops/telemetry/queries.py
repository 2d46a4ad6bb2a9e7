"""Reads of telemetry."""

import shutil
from collections.abc import Sequence

from django.conf import settings
from django.db import connection

from dcops.fleet.models import Gpu


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
