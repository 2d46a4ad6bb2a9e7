"""One transaction for a group of batches: claim the record numbers, copy the rows, keep the events, mark what to roll up.

Runs in one thread with one connection. What it returned is committed; what raised is not, and may be tried again whole,
because the ledger of numbers is part of the same transaction.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from dcops.domain.metrics import TABLES
from dcops.telemetry import store
from dcops.telemetry.intake import (
    Assembled,
    Incoming,
    Parts,
    Reject,
    assemble,
    due_marks,
    quarantine_rows,
    take_apart,
    window_at,
)
from dcops.telemetry.latest import Latest, PackedRows
from dcops.telemetry.ranges import Range, from_multirange, holds, to_multirange, to_ranges
from dcops.telemetry.rows import Rows, copy_blocks, copy_columns
from dcops.wire.frames import Event, Gap, Spool

logger = logging.getLogger(__name__)

HOUR_US = 3_600_000_000
MAX_TEXT = 2000
MAX_GAP = 1 << 40
MAX_SPOOLS_CACHED = 100_000
AHEAD_HOURS = 4
EVENT_DAYS_BACK = 31


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings a writer needs."""

    row_hours: int
    raw_days: int
    event_days: int


@dataclass(slots=True)
class Outcome:
    """What became of one batch: everything in `ranges` is committed, or was before, or stands in quarantine."""

    ranges: list[Range]
    rows_stored: int = 0
    values_stored: int = 0
    values_rejected: int = 0
    records_quarantined: int = 0
    records_repeated: int = 0


@dataclass(slots=True)
class _Group:
    """A group on its way through the transaction."""

    batches: Sequence[Incoming]
    parts: Parts
    now: datetime
    late_edge_us: int
    known: set[tuple[int, int]] = field(default_factory=set)
    tables: list[Assembled] = field(default_factory=list)
    events: int = 0


class Writer:
    """The only writer of samples. Not thread-safe: give it one thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connection: psycopg.Connection[Any] | None = None
        self._spools: dict[tuple[int, str], int] = {}
        self._partitions_hour: datetime | None = None
        self._latest = {table.code: Latest(table) for table in TABLES}
        self._changed: dict[int, list[np.ndarray[Any, Any]]] = defaultdict(list)
        self.events_stored = 0

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, batches: Sequence[Incoming], now: datetime) -> list[Outcome]:
        """Commit a group and return one outcome a batch. Raises psycopg.OperationalError when the database is away.

        Should the data itself be the cause, the group is halved until the records at fault are alone; those go
        to quarantine and the rest is kept.
        """
        try:
            return self._write(batches, now)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.close()
            self._spools.clear()
            raise psycopg.OperationalError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - whatever it is, it may stop these batches and no others
            logger.warning("a group of %d batches cannot be stored: %r", len(batches), error)
            self._reset()
            return self._split(batches, now, error)

    def news(self) -> dict[int, PackedRows]:
        """The newest rows stored since the last call: table code -> rows."""
        packed = {}
        for code, slots in self._changed.items():
            packed[code] = self._latest[code].packed(np.unique(np.concatenate(slots)))
        self._changed.clear()
        return packed

    def _split(
        self, batches: Sequence[Incoming], now: datetime, error: Exception
    ) -> list[Outcome]:
        if len(batches) > 1:
            middle = len(batches) // 2
            return self.write(batches[:middle], now) + self.write(batches[middle:], now)
        only = batches[0]
        records = only.batch.records
        if len(records) > 1:
            middle = len(records) // 2
            halves = [
                self.write([only._replace(batch=_with_records(only, part))], now)[0]
                for part in (records[:middle], records[middle:])
            ]
            return [_joined(halves)]
        return [self._quarantine_record(only, now, error)]

    def _quarantine_record(self, only: Incoming, now: datetime, error: Exception) -> Outcome:
        record = only.batch.records[0]
        parts = Parts(
            [[record.seq]],
            rejects=[
                Reject(
                    0,
                    record.seq,
                    f"it cannot be stored: {type(error).__name__}",
                    record.payload,
                )
            ],
        )
        return self._commit(_Group([only], parts, now, 0))[0]

    def _reset(self) -> None:
        # Ids of the transaction that failed are none.
        self._spools.clear()
        if self._connection is not None and not self._connection.closed:
            self._connection.rollback()

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = store.connect("dcops-ingest", autocommit=True)
        return self._connection

    def _write(self, batches: Sequence[Incoming], now: datetime) -> list[Outcome]:
        now_us = int(now.timestamp() * 1e6)
        parts = take_apart(batches, window_at(now_us, self._limits.raw_days))
        late_edge = now_us - self._limits.row_hours * HOUR_US
        return self._commit(_Group(batches, parts, now, late_edge))

    def _commit(self, group: _Group) -> list[Outcome]:
        connection = self._connected()
        self._keep_partitions(connection, group.now)
        with connection.transaction(), connection.cursor() as cursor:
            self._claim(cursor, group)
            if group.known:
                group.parts.without(group.known)
            group.tables = assemble(group.parts.pieces)
            for table in group.tables:
                _copy(cursor, table.rows, group.late_edge_us)
            self._keep_happenings(cursor, group)
            _keep_quarantined(cursor, group)
            _mark_due(cursor, group)
        self._remember(group)
        return _outcomes(group)

    # -- the ledger

    def _claim(self, cursor: psycopg.Cursor[Any], group: _Group) -> None:
        """Mark every record of the group as seen and find those that were before: they are in group.known."""
        wanted: dict[int, dict[int, int]] = defaultdict(dict)
        for number, spool in enumerate(self._spool_ids(cursor, group)):
            seqs = wanted[spool]
            for seq in group.parts.seqs[number]:
                if seqs.setdefault(seq, number) != number:
                    group.known.add((number, seq))
        new = {
            spool: to_multirange(to_ranges(seqs)) for spool, seqs in sorted(wanted.items()) if seqs
        }
        if not new:
            return
        arguments = {"ids": list(new), "new": list(new.values()), "now": group.now}
        cursor.execute(store.named("claim"), arguments)
        rest = set(new) - {row[0] for row in cursor.fetchall()}
        if rest:
            self._claim_rest(cursor, group, {spool: new[spool] for spool in rest}, wanted)

    def _claim_rest(
        self,
        cursor: psycopg.Cursor[Any],
        group: _Group,
        new: dict[int, str],
        wanted: dict[int, dict[int, int]],
    ) -> None:
        arguments = {"ids": list(new), "new": list(new.values()), "now": group.now}
        cursor.execute(store.named("claim_rest"), arguments)
        found = cursor.fetchall()
        if len(found) != len(new):
            # Retention removed a spool this process still knew: look all of them up again.
            raise psycopg.OperationalError("the ledger of a spool is gone")
        for spool, seen in found:
            ranges = from_multirange(seen)
            group.known.update(
                (number, seq) for seq, number in wanted[spool].items() if holds(ranges, seq)
            )
        cursor.execute(store.named("mark_seen"), arguments)

    def _spool_ids(self, cursor: psycopg.Cursor[Any], group: _Group) -> list[int]:
        keys = [(b.source.node_id, b.batch.spool_id) for b in group.batches]
        missing = {
            key: b.batch.spool
            for key, b in zip(keys, group.batches, strict=True)
            if key not in self._spools
        }
        missing |= {
            (group.batches[told.batch].source.node_id, told.happening.spool_id): Spool.METRICS
            for told in group.parts.told
            if isinstance(told.happening, Gap)
            and (group.batches[told.batch].source.node_id, told.happening.spool_id)
            not in self._spools
        }
        if missing:
            self._add_spools(cursor, missing, group.now)
        return [self._spools[key] for key in keys]

    def _add_spools(
        self, cursor: psycopg.Cursor[Any], missing: dict[tuple[int, str], Spool], now: datetime
    ) -> None:
        if len(self._spools) > MAX_SPOOLS_CACHED:
            self._spools.clear()
        arguments = {
            "nodes": [node for node, _ in missing],
            "spools": [spool for _, spool in missing],
            "kinds": [str(kind) for kind in missing.values()],
            "now": now,
        }
        cursor.execute(store.named("add_spools"), arguments)
        for pk, node_id, spool_id, _kind in cursor.fetchall():
            self._spools[node_id, spool_id] = pk

    # -- events, gaps, quarantine

    def _keep_happenings(self, cursor: psycopg.Cursor[Any], group: _Group) -> None:
        for told in group.parts.told:
            source = group.batches[told.batch].source
            if isinstance(told.happening, Event):
                self._keep_event(cursor, told.happening, source.node_id, source.gpu_ids, group.now)
                group.events += 1
            else:
                self._keep_gap(cursor, told.happening, source.node_id, group.now)

    def _keep_event(
        self,
        cursor: psycopg.Cursor[Any],
        event: Event,
        node_id: int,
        gpu_ids: dict[str, int],
        now: datetime,
    ) -> None:
        cursor.execute(
            store.named("add_event"),
            {
                "at": _event_time(event.at_us, now, self._limits.event_days),
                "now": now,
                "node_id": node_id,
                "gpu_id": gpu_ids.get(event.gpu_uuid),
                "kind": _text(event.kind, 64),
                "severity": str(event.severity),
                "code": event.code if event.code is not None and abs(event.code) < 2**31 else None,
                "message": _text(event.message, MAX_TEXT),
                "key": _text(event.key, 200),
                "source": _text(event.source, 64),
            },
        )

    def _keep_gap(
        self, cursor: psycopg.Cursor[Any], gap: Gap, node_id: int, now: datetime
    ) -> None:
        """Record what of the gap never arrived, and count it as seen: should it come after all, it is not stored."""
        if not 0 <= gap.first_seq <= gap.last_seq < gap.first_seq + MAX_GAP:
            return
        spool = self._spools[node_id, gap.spool_id]
        cursor.execute(
            store.named("lock_gap"), {"id": spool, "first": gap.first_seq, "last": gap.last_seq}
        )
        row = cursor.fetchone()
        missing = from_multirange(row[0]) if row else []
        for first, last in missing:
            cursor.execute(
                store.named("add_gap"),
                {
                    "node_id": node_id,
                    "spool_id": gap.spool_id,
                    "first": first,
                    "last": last,
                    "first_at": _time_or_none(gap.first_at_us),
                    "last_at": _time_or_none(gap.last_at_us),
                    "reason": _text(gap.reason, 200),
                    "now": now,
                },
            )
        if missing:
            cursor.execute(
                store.named("mark_seen"),
                {"ids": [spool], "new": [to_multirange(missing)], "now": now},
            )

    # -- around the transaction

    def _keep_partitions(self, connection: psycopg.Connection[Any], now: datetime) -> None:
        """Make the partitions this writer may need in the next hours; beat does too, but ingest must not hang on it."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour == self._partitions_hour:
            return
        with connection.transaction(), connection.cursor() as cursor:
            for table in TABLES:
                for ahead in range(-self._limits.row_hours, AHEAD_HOURS + 1):
                    cursor.execute(
                        "SELECT telemetry_make_partition(%s, %s)",
                        (table.name, now + timedelta(hours=ahead)),
                    )
            for days in (-EVENT_DAYS_BACK, 0, EVENT_DAYS_BACK):
                cursor.execute(
                    "SELECT telemetry_make_partition('telemetry_event', %s)",
                    (now + timedelta(days=days),),
                )
        self._partitions_hour = hour

    def _remember(self, group: _Group) -> None:
        self.events_stored += group.events
        for table in group.tables:
            rows = table.rows
            if len(rows):
                changed = self._latest[rows.table.code].update(
                    rows.subject_ids, rows.at_us, _with_present(rows)
                )
                self._changed[rows.table.code].append(changed)


def _with_present(rows: Rows) -> Any:
    if np.array_equal(rows.data["present"], rows.present):
        return rows.data
    data = rows.data.copy()
    data["present"] = rows.present
    return data


def _copy(cursor: psycopg.Cursor[Any], rows: Rows, late_edge_us: int) -> None:
    if not len(rows):
        return
    late = rows.at_us < late_edge_us
    if not late.any():
        _copy_into(cursor, rows.table.name, rows)
        return
    _copy_into(cursor, f"{rows.table.name}_late", rows.take(late))
    if not late.all():
        _copy_into(cursor, rows.table.name, rows.take(~late))


def _copy_into(cursor: psycopg.Cursor[Any], name: str, rows: Rows) -> None:
    with cursor.copy(
        f"COPY {name} ({copy_columns(rows.table)}) FROM STDIN (FORMAT BINARY)".encode()
    ) as copy:
        for block in copy_blocks(rows):
            copy.write(block)


def _keep_quarantined(cursor: psycopg.Cursor[Any], group: _Group) -> None:
    for kept in quarantine_rows(group.parts.rejects):
        incoming = group.batches[kept.batch]
        cursor.execute(
            store.named("add_quarantine"),
            {
                "now": group.now,
                "node_id": incoming.source.node_id,
                "spool_id": incoming.batch.spool_id,
                "first_seq": kept.first_seq,
                "records": kept.records,
                "reason": _text(kept.reason, 500),
                "payload": kept.payload,
                "payload_bytes": kept.payload_bytes,
            },
        )


def _mark_due(cursor: psycopg.Cursor[Any], group: _Group) -> None:
    now_us = int(group.now.timestamp() * 1e6)
    marks = [
        mark for table in group.tables if len(table.rows) for mark in due_marks(table.rows, now_us)
    ]
    if marks:
        tables, minutes, subjects = (list(column) for column in zip(*marks, strict=True))
        cursor.execute(
            store.named("mark_due"),
            {"tables": tables, "minutes": minutes, "subjects": subjects, "now": group.now},
        )


def _outcomes(group: _Group) -> list[Outcome]:
    outcomes = [Outcome(to_ranges(seqs)) for seqs in group.parts.seqs]
    count = len(outcomes)
    for table in group.tables:
        width = np.bitwise_count(table.rows.present)
        stored = np.bincount(table.rows.batch, minlength=count)
        values = np.bincount(table.rows.batch, weights=width, minlength=count)
        rejected = np.bincount(table.readings_rejected, minlength=count) + np.bincount(
            table.rows_rejected, minlength=count
        ) * len(table.rows.table.metrics)
        for number in np.flatnonzero(stored + rejected).tolist():
            outcomes[number].rows_stored += int(stored[number])
            outcomes[number].values_stored += int(values[number])
            outcomes[number].values_rejected += int(rejected[number])
    for number, rows in group.parts.rows_rejected.items():
        outcomes[number].values_rejected += rows
    for reject in group.parts.rejects:
        outcomes[reject.batch].records_quarantined += 1
    for number, _seq in group.known:
        outcomes[number].records_repeated += 1
    return outcomes


def _with_records(incoming: Incoming, records: list[Any]) -> Any:
    batch = incoming.batch
    return type(batch)(batch.spool, batch.spool_id, records)


def _joined(halves: Iterable[Outcome]) -> Outcome:
    whole = Outcome([])
    for half in halves:
        whole.ranges += half.ranges
        whole.rows_stored += half.rows_stored
        whole.values_stored += half.values_stored
        whole.values_rejected += half.values_rejected
        whole.records_quarantined += half.records_quarantined
        whole.records_repeated += half.records_repeated
    return whole


def _text(text: str, longest: int) -> str:
    return text.replace("\x00", "")[:longest]


def _event_time(at_us: int, now: datetime, event_days: int) -> datetime:
    """An event is never refused for its clock: outside what partitions can hold, the time of arrival stands for it."""
    oldest, newest = (
        now - timedelta(days=min(event_days, EVENT_DAYS_BACK)),
        now + timedelta(minutes=5),
    )
    try:
        at = datetime.fromtimestamp(at_us / 1e6, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return now
    return at if oldest <= at <= newest else now


def _time_or_none(at_us: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(at_us / 1e6, tz=UTC) if at_us > 0 else None
    except (OverflowError, ValueError, OSError):
        return None
