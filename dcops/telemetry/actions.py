"""Writes of telemetry outside the writer's transaction: schema, node states, clones."""

import hashlib
from datetime import UTC, datetime

import msgspec
from django.db import connection, transaction

from dcops.access.actor import system
from dcops.domain.errors import Conflict
from dcops.fleet import actions as fleet_actions
from dcops.fleet.enrol import clean
from dcops.telemetry import schema, store
from dcops.wire.frames import NodeState


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


def keep_node_state(node_id: int, state: NodeState, now: datetime) -> None:
    """Keep what a node says of its processes and its doctor; only the latest counts."""
    processes = [clean(msgspec.structs.asdict(process)) for process in state.processes]
    findings = [clean(msgspec.structs.asdict(finding)) for finding in state.findings]
    with connection.cursor() as cursor:
        cursor.execute(
            store.named("keep_state"),
            {
                "node_id": node_id,
                "at": _not_after(state.at_us, now),
                "processes": msgspec.json.encode(processes).decode(),
                "findings": msgspec.json.encode(findings).decode(),
            },
        )


def quarantine_clone(node_name: str, now: datetime) -> None:
    """Give a node nothing to do once two machines were seen to share its identity. Audited; no change if it is so already."""
    reason = "Two machines took turns with this node's identity."
    try:
        fleet_actions.quarantine_node(system("ingest"), name=node_name, reason=reason, now=now)
    except Conflict:
        return


def _not_after(at_us: int, now: datetime) -> datetime:
    """The time a node gives, unless its clock is ahead or makes no sense."""
    try:
        return min(datetime.fromtimestamp(at_us / 1e6, tz=UTC), now)
    except (OverflowError, ValueError, OSError):
        return now
