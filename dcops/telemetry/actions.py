"""Writes of telemetry outside the writer's transaction: schema, states, rollups, partitions, retention, silence."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.db import connection, transaction

from dcops import live
from dcops.access.actor import system
from dcops.domain.errors import Conflict
from dcops.domain.metrics import TABLE_BY_CODE, TABLES
from dcops.fleet import actions as fleet_actions
from dcops.fleet.enrol import clean
from dcops.telemetry import packing, rollup, schema, store
from dcops.telemetry.packing import MINUTE
from dcops.telemetry.schema import HOUR_S, MINUTE_S, rollup_table
from dcops.wire.frames import NodeState, Severity


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


# -- rollups

FRESH = timedelta(minutes=5)
SETTLE = timedelta(seconds=10)  # after a minute's end, for the nodes' last rows
QUIET, PATIENCE = (
    timedelta(seconds=20),
    timedelta(minutes=2),
)  # late rows come in crowds: one rollup for many
MAX_BUCKETS = 240


def roll_up(now: datetime) -> int:
    """Recompute the rollups that are out of date; returns how many buckets. Safe to run at any time, any number of times."""
    with packing.alone("roll_up") as mine:
        if not mine:
            return 0
        done = sum(_roll_bucket(code, MINUTE_S, bucket) for code, bucket in _due_minutes(now))
        return done + sum(_roll_bucket(code, HOUR_S, bucket) for code, bucket in _due_hours(now))


def _due_minutes(now: datetime) -> list[tuple[int, datetime]]:
    with connection.cursor() as cursor:
        cursor.execute(
            store.named("due_minutes"),
            {
                "settled": now - MINUTE - SETTLE,
                "fresh": now - FRESH,
                "quiet": now - QUIET,
                "patience": now - PATIENCE,
                "most": MAX_BUCKETS,
            },
        )
        return [(code, bucket) for code, bucket in cursor.fetchall()]


def _due_hours(now: datetime) -> list[tuple[int, datetime]]:
    with connection.cursor() as cursor:
        cursor.execute(
            store.named("due_hours"),
            {"settled": now - packing.HOUR - MINUTE - SETTLE, "most": MAX_BUCKETS},
        )
        return [(code, bucket) for code, bucket in cursor.fetchall()]


def _roll_bucket(code: int, step_s: int, bucket: datetime) -> bool:
    table = TABLE_BY_CODE.get(code)
    if table is None:
        return False
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock_shared(%s, %s)", (packing.LOCKS["hours"], code)
        )
        if step_s == MINUTE_S and _is_packed(cursor, code, bucket):
            return False
        # What the marks deleted here speak of is committed, and the next statement sees it.
        cursor.execute(
            "DELETE FROM telemetry_rollup_due WHERE table_code = %s AND step_s = %s AND bucket = %s RETURNING subject_id",
            (code, step_s, bucket),
        )
        marked = {row[0] for row in cursor.fetchall()}
        if not marked:
            return False
        subjects = None if None in marked else sorted(marked)
        store.make_partition(cursor, rollup_table(table, step_s), bucket)
        cursor.execute(
            rollup.statement(table.name, step_s), {"bucket": bucket, "subjects": subjects}
        )
        if step_s == MINUTE_S:
            packing.mark_hour(cursor, table, _hour_of(bucket), subjects)
    return True


def _is_packed(cursor: Any, code: int, bucket: datetime) -> bool:
    cursor.execute(
        "SELECT 1 FROM telemetry_packed WHERE table_code = %s AND hour = %s",
        (code, _hour_of(bucket)),
    )
    return cursor.fetchone() is not None


def _hour_of(bucket: datetime) -> datetime:
    return bucket.replace(minute=0, second=0, microsecond=0)


# -- partitions and retention


def keep_partitions(now: datetime, row_hours: int) -> None:
    """Make the partitions of the next hours, days and months."""
    ahead = {
        "hour": [timedelta(hours=h) for h in range(-row_hours, 6)],
        "day": [timedelta(), timedelta(days=1)],
    }
    ahead["month"] = [timedelta(), timedelta(days=28), timedelta(days=31)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT parent, step FROM telemetry_partitioned ORDER BY parent")
        for parent, step in cursor.fetchall():
            for delta in ahead[step]:
                store.make_partition(cursor, parent, now + delta)


def apply_retention(now: datetime, limits: Mapping[str, int]) -> list[str]:
    """Drop what is older than its tier keeps, unless its rollup is still to be made. Returns the partitions dropped."""
    dropped = _drop_older(
        "telemetry_chunk", now - timedelta(days=limits["raw_days"]), needs_step=MINUTE_S
    )
    for table in TABLES:
        dropped += _drop_older(
            rollup_table(table, MINUTE_S),
            now - timedelta(days=limits["minute_days"]),
            needs_step=HOUR_S,
        )
        dropped += _drop_older(
            rollup_table(table, HOUR_S), now - timedelta(days=limits["hour_days"])
        )
    dropped += _drop_older("telemetry_event", now - timedelta(days=limits["event_days"]))
    raw, event = (
        now - timedelta(days=limits["raw_days"]),
        now - timedelta(days=limits["event_days"]),
    )
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"DELETE FROM {table.name}_late WHERE at < %s", (raw - packing.HOUR,))  # noqa: S608 - a name of ours
        cursor.execute("DELETE FROM telemetry_packed WHERE hour < %s", (raw - timedelta(days=1),))
        cursor.execute(
            "DELETE FROM telemetry_rollup_due WHERE step_s = 60 AND bucket < %s",
            (raw - timedelta(days=1),),
        )
        cursor.execute(
            "DELETE FROM telemetry_quarantine WHERE at < %s",
            (now - timedelta(days=min(90, limits["event_days"])),),
        )
        cursor.execute("DELETE FROM telemetry_gap WHERE received_at < %s", (event,))
        cursor.execute(
            "DELETE FROM telemetry_ingest WHERE alive_at < %s", (now - timedelta(days=1),)
        )
        # Numbers of samples too old to be taken may be forgotten; those of events, which have no such bound, may not.
        cursor.execute(
            "DELETE FROM telemetry_spool WHERE kind = 'metrics' AND last_received_at < %s",
            (raw - timedelta(days=1),),
        )
    return dropped


def _drop_older(parent: str, edge: datetime, needs_step: int | None = None) -> list[str]:
    dropped = []
    with connection.cursor() as cursor:
        old = [
            (name, lower, upper)
            for name, lower, upper in store.partitions(cursor, parent)
            if upper <= edge
        ]
    for name, lower, upper in old:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM telemetry_rollup_due WHERE step_s = %s AND bucket >= %s AND bucket < %s LIMIT 1",
                (needs_step, lower, upper),
            )
            if cursor.fetchone() is None:
                store.drop_partition(cursor, parent, name)
                dropped.append(name)
    return dropped


# -- silence


def note_ingest(process: str, started_at: datetime, now: datetime) -> None:
    """Say that this ingest process listens."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO telemetry_ingest (process, started_at, alive_at) VALUES (%s, %s, %s) "
            "ON CONFLICT (process) DO UPDATE SET alive_at = excluded.alive_at",
            (process, started_at, now),
        )


def note_silent_nodes(now: datetime, silent_after_s: int) -> int:
    """Write an event for each node that fell silent, once a silence. Nobody is called silent while nobody listened."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(store.named("silent_nodes"), {"now": now, "silent_after_s": silent_after_s})
        fallen = cursor.fetchall()
        for node_id, last in fallen:
            cursor.execute(
                store.named("add_event"),
                {
                    "at": now,
                    "now": now,
                    "node_id": node_id,
                    "gpu_id": None,
                    "kind": "silent",
                    "severity": str(Severity.WARNING),
                    "code": None,
                    "message": f"No samples since {last:%Y-%m-%d %H:%M:%S} UTC.",
                    "key": _silence_key(last),
                    "source": "server",
                },
            )
        if fallen:
            live.publish_on_commit(live.EventsStored(len(fallen)))
    return len(fallen)


def _silence_key(last: datetime) -> str:
    return f"silent-{last:%Y%m%dT%H%M%S}"
