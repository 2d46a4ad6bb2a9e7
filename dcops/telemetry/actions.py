"""Writes of telemetry outside ingest: schema, partitions, rollups, retention."""

import hashlib

from django.db import connection, transaction

from dcops.telemetry import schema


def sync_schema() -> None:
    """Bring the sample tables, rollups and Grafana views up to the metric registry. Runs as the owner, may run again.

    A fingerprint kept in the database makes a start without news cost one query.
    """
    statements = list(schema.statements())
    fingerprint = hashlib.sha256("\n".join(statements).encode()).hexdigest()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT obj_description('telemetry_partitioned'::regclass)")
        if cursor.fetchone()[0] == fingerprint:
            return
        for statement in statements:
            cursor.execute(statement)
        cursor.execute(f"COMMENT ON TABLE telemetry_partitioned IS '{fingerprint}'")
