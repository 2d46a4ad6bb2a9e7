"""An oracle for what was produced and what the database holds. It trusts nothing of the product but the wire format's text:
records are read with struct alone, rows are read with plain SQL as the superuser.

A record is *certain* when its producer is known to have kept it; one that was being written when its producer was killed may
have been kept or not, and must then be stored whole or not at all.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg

from agents.sim.enrol import STATE_FILE, HallState
from agents.sim.hall import JOURNAL_HEAD
from agents.sim.plan import lay_out
from dcops.domain.metrics import TABLE_BY_CODE, TABLES, SampleTable
from dcops.wire.frames import Event, Gap, Spool, decode_happenings
from dcops.wire.rows import COLUMN_CODE

HEADER = struct.Struct("<BHqI")
ROW = {
    table.code: struct.Struct("<BQ" + "".join(COLUMN_CODE[m.column] for m in table.metrics))
    for table in TABLES
}

GpuLists = dict[tuple[str, int], list[str]]


class Produced(NamedTuple):
    """One record as its producer wrote it. `node` is the node's UUID."""

    node: str
    spool_id: str
    spool: Spool
    seq: int
    payload: bytes
    certain: bool = True


class RowKey(NamedTuple):
    """What names a row: its table, its GPU's or node's UUID, and its time."""

    table: str
    subject: str
    at_us: int


Values = tuple[float | int | None, ...]


@dataclass
class Judgement:
    """The verdict. Everything but the first three must be 0 in a run without losses; `gapped` rows are honest losses."""

    records: int = 0
    rows: int = 0
    stored: int = 0
    gapped: int = 0
    missing: int = 0
    duplicate: int = 0
    corrupted: int = 0
    spurious: int = 0
    gapped_and_stored: int = 0
    events: int = 0
    events_missing: int = 0
    events_duplicate: int = 0
    quarantined: int = 0
    gap_records: int = 0
    gaps_of_nothing: int = 0
    gaps_twice: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """How many things are not as they must be."""
        return (
            self.missing + self.duplicate + self.corrupted + self.spurious + self.gapped_and_stored
            + self.events_missing + self.events_duplicate + self.quarantined + self.gaps_of_nothing + self.gaps_twice
        )  # fmt: skip

    def example(self, what: str) -> None:
        """Keep the first few for the report."""
        if len(self.examples) < 12:
            self.examples.append(what)

    def __str__(self) -> str:
        return (
            f"{self.records:,} records, {self.rows:,} rows, {self.stored:,} stored, {self.gapped:,} in gaps; "
            f"missing {self.missing}, duplicate {self.duplicate}, corrupted {self.corrupted}, spurious {self.spurious}, "
            f"gapped and stored {self.gapped_and_stored}; {self.events:,} events, missing {self.events_missing}, "
            f"duplicate {self.events_duplicate}; {self.gap_records:,} records declared lost, never made {self.gaps_of_nothing}, "
            f"told twice {self.gaps_twice}; quarantined {self.quarantined}"
        )


def read_hall(
    state_dir: Path, journal: Path, nodes: int, gpus: int, seed: int = 1
) -> tuple[list[Produced], GpuLists]:
    """What a simulated hall says it produced: its journal, whose last record may be cut off."""
    state = msgspec.msgpack.decode((state_dir / STATE_FILE).read_bytes(), type=HallState)
    plan = lay_out(nodes, gpus, seed, state.salt)
    ids = [state.nodes[node.name].node_id for node in plan]
    lists = {(node_id, 1): list(node.gpu_uuids) for node_id, node in zip(ids, plan, strict=True)}
    return list(_read_journal(journal, ids)), lists


def _read_journal(journal: Path, ids: list[str]) -> Iterator[Produced]:
    data, offset = journal.read_bytes(), 0
    while offset + JOURNAL_HEAD.size <= len(data):
        index, kind, spool_id, seq, size = JOURNAL_HEAD.unpack_from(data, offset)
        offset += JOURNAL_HEAD.size
        payload = data[offset : offset + size]
        if len(payload) < size:
            return
        offset += size
        spool = Spool.METRICS if kind == 0 else Spool.EVENTS
        yield Produced(ids[index], spool_id.decode(), spool, seq, payload)


def rows_of(record: Produced, lists: GpuLists) -> Iterator[tuple[RowKey, Values]]:
    """The rows of a metrics record."""
    view, offset = memoryview(record.payload), 0
    while offset < len(view):
        code, count, at_us, list_id = HEADER.unpack_from(view, offset)
        offset += HEADER.size
        table, row = TABLE_BY_CODE[code], ROW[code]
        for _ in range(count):
            subject, present, *fields = row.unpack_from(view, offset)
            offset += row.size
            who = record.node if table.subject == "node" else lists[record.node, list_id][subject]
            yield (
                RowKey(table.name, who, at_us),
                tuple(v if present >> i & 1 else None for i, v in enumerate(fields)),
            )


def judge(
    connection: psycopg.Connection, produced: Iterable[Produced], lists: GpuLists
) -> Judgement:
    """Compare everything produced with everything stored."""
    verdict = Judgement()
    records = list(produced)
    verdict.records = len(records)
    gaps = _gaps(connection)
    stored = _stored_rows(connection)
    verdict.stored = sum(len(found) for found in stored.values())
    for record in records:
        if record.spool is Spool.METRICS:
            _judge_metrics(verdict, record, list(rows_of(record, lists)), stored, gaps)
    for key, found in stored.items():
        verdict.spurious += len(found)
        if found:
            verdict.example(f"stored, but nobody produced it: {key}")
    _judge_events(connection, verdict, [r for r in records if r.spool is Spool.EVENTS], gaps)
    _judge_gaps(verdict, records, gaps)
    verdict.quarantined = _count(
        connection, "SELECT coalesce(sum(records), 0) FROM telemetry_quarantine"
    )
    return verdict


def _judge_metrics(
    verdict: Judgement,
    record: Produced,
    rows: list[tuple[RowKey, Values]],
    stored: dict[RowKey, list[Values]],
    gaps: dict[tuple[str, str], list[tuple[int, int]]],
) -> None:
    """Take the rows of one record out of `stored`; what is left over in the end is spurious."""
    verdict.rows += len(rows)
    gapped = any(
        first <= record.seq <= last for first, last in gaps.get((record.node, record.spool_id), ())
    )
    there = [key for key, _ in rows if stored.get(key)]
    if gapped:
        verdict.gapped += len(rows)
        if there:
            verdict.gapped_and_stored += len(there)
            verdict.example(f"declared lost, but stored: {record.node} {record.seq} {there[0]}")
    elif not there and not record.certain:
        verdict.rows -= len(rows)
    owed = not gapped and (record.certain or bool(there))
    for key, values in rows:
        _judge_row(verdict, key, values, stored.pop(key, []), owed=owed)


def _judge_row(
    verdict: Judgement, key: RowKey, values: Values, found: list[Values], *, owed: bool
) -> None:
    if not found and owed:
        verdict.missing += 1
        verdict.example(f"missing: {key}")
    if len(found) > 1:
        verdict.duplicate += len(found) - 1
        verdict.example(f"{len(found)} times: {key}")
    if any(one != values for one in found):
        verdict.corrupted += 1
        verdict.example(f"differs: {key} {_difference(values, found[0])}")


def _difference(mine: Values, theirs: Values) -> str:
    return ", ".join(
        f"#{i}: {a!r} became {b!r}"
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True))
        if a != b
    )


def _judge_events(
    connection: psycopg.Connection,
    verdict: Judgement,
    records: list[Produced],
    gaps: dict[tuple[str, str], list[tuple[int, int]]],
) -> None:
    found: Counter[tuple[str, str]] = Counter(
        connection.execute(
            "SELECT n.uuid::text, e.key FROM telemetry_event e JOIN fleet_node n ON n.id = e.node_id"
        ).fetchall()
    )
    for record in records:
        for happening in decode_happenings(record.payload):
            if isinstance(happening, Event):
                times = found[record.node, happening.key]
                verdict.events += 1
                verdict.events_missing += times == 0 and record.certain
                verdict.events_duplicate += max(times - 1, 0)
                if times != 1 and record.certain:
                    verdict.example(f"event {times} times: {record.node} {happening.key}")
            elif record.certain and not _covered(
                happening, gaps.get((record.node, happening.spool_id), [])
            ):
                verdict.events_missing += 1
                verdict.example(f"gap not recorded: {happening}")


def _judge_gaps(
    verdict: Judgement, records: list[Produced], gaps: dict[tuple[str, str], list[tuple[int, int]]]
) -> None:
    """Every number declared lost was made, and is declared lost once: only so do stored and lost add up to made."""
    made = {(record.node, record.spool_id, record.seq) for record in records}
    for (node, spool_id), ranges in gaps.items():
        told = Counter(seq for first, last in ranges for seq in range(first, last + 1))
        verdict.gap_records += len(told)
        verdict.gaps_twice += sum(times - 1 for times in told.values())
        strange = [seq for seq in told if (node, spool_id, seq) not in made]
        verdict.gaps_of_nothing += len(strange)
        if strange:
            verdict.example(f"declared lost, but never made: {spool_id} {strange[:5]}")


def _covered(gap: Gap, recorded: list[tuple[int, int]]) -> bool:
    return all(
        any(first <= seq <= last for first, last in recorded)
        for seq in range(gap.first_seq, gap.last_seq + 1)
    )


def _gaps(connection: psycopg.Connection) -> dict[tuple[str, str], list[tuple[int, int]]]:
    found = defaultdict(list)
    for node, spool_id, first, last in connection.execute(
        "SELECT n.uuid::text, g.spool_id, g.first_seq, g.last_seq FROM telemetry_gap g JOIN fleet_node n ON n.id = g.node_id"
    ):
        found[node, spool_id].append((first, last))
    return found


def _stored_rows(connection: psycopg.Connection) -> dict[RowKey, list[Values]]:
    found: dict[RowKey, list[Values]] = defaultdict(list)
    for table in TABLES:
        for who, at_us, *values in _select(connection, table):
            found[RowKey(table.name, who, at_us)].append(tuple(values))
    return found


def _select(connection: psycopg.Connection, table: SampleTable) -> Iterator[tuple]:
    columns = ", ".join(f"s.{name}" for name in table.names)
    joined = "fleet_gpu o" if table.subject == "gpu" else "fleet_node o"
    query = " UNION ALL ".join(
        f"SELECT o.uuid::text, (extract(epoch FROM s.at) * 1000000)::bigint, {columns} FROM {source} s JOIN {joined} ON o.id = s.subject_id"
        for source in (table.name, f"{table.name}_late")
    )
    # Binary: a real arrives as the very number that was sent, and not as its shortest decimal.
    with connection.cursor(binary=True) as cursor:
        cursor.execute(query)
        yield from cursor


def _count(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
