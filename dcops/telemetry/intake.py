"""Batches as nodes send them, taken apart and checked: pure, and safe to feed with anything.

`take_apart` reads each record once: what is whole becomes sections and happenings, what is not becomes a Reject with its
reason. `assemble` joins the sections of many batches into a table's Rows in one numpy pass.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from dcops.telemetry.rows import I4, I8, Layout, Rows, adapt, check_values
from dcops.wire.frames import Batch, Event, Gap, Record, Spool, decode_happenings
from dcops.wire.rows import SECTION

MAX_SECTIONS = 256
MAX_HAPPENINGS = 1024
FUTURE_US = 300 * 1_000_000
UNKNOWN = -1  # a position of a GPU list that names no GPU of this node
QUARANTINED_PAYLOAD_BYTES = 4096


class Window(NamedTuple):
    """The sample times the server takes, in µs."""

    oldest_us: int
    newest_us: int


@dataclass(slots=True, eq=False)
class Source:
    """What the rows of a connection mean. A new GPU list makes a new dict, so a batch keeps the one it came with."""

    node_id: int
    layouts: dict[int, Layout]
    gpu_lists: dict[int, npt.NDArray[I4]] = field(default_factory=dict)
    gpu_ids: dict[str, int] = field(default_factory=dict)
    node_list: npt.NDArray[I4] = field(init=False)

    def __post_init__(self) -> None:
        self.node_list = np.array([self.node_id], I4)


class Incoming(NamedTuple):
    """One batch and the meaning of its rows at the moment it came."""

    source: Source
    gpu_lists: dict[int, npt.NDArray[I4]]
    batch: Batch
    size: int  # bytes of the frame


class Piece(NamedTuple):
    """The rows of one section, and where they came from."""

    batch: int
    seq: int
    layout: Layout
    at_us: int
    row_count: int
    subjects: npt.NDArray[I4]
    rows: memoryview


class Told(NamedTuple):
    """An event or a gap, and where it came from."""

    batch: int
    seq: int
    happening: Event | Gap


class Reject(NamedTuple):
    """A record that could not be read."""

    batch: int
    seq: int
    reason: str
    payload: bytes


@dataclass(slots=True)
class Parts:
    """A group of batches taken apart. `seqs` are the record numbers of each batch, without repeats."""

    seqs: list[list[int]]
    pieces: list[Piece] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    rows_rejected: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def without(self, known: set[tuple[int, int]]) -> None:
        """Forget what came with these (batch, seq)."""
        self.pieces = [p for p in self.pieces if (p.batch, p.seq) not in known]
        self.told = [t for t in self.told if (t.batch, t.seq) not in known]
        self.rejects = [r for r in self.rejects if (r.batch, r.seq) not in known]


class Unreadable(Exception):
    """A record does not hold what it should; the message says why."""


def take_apart(group: Sequence[Incoming], window: Window) -> Parts:
    """Read every record of the group. Never raises for what an agent sent."""
    parts = Parts([])
    for number, incoming in enumerate(group):
        read = _read_metrics if incoming.batch.spool is Spool.METRICS else _read_happenings
        seqs: dict[int, None] = {}
        for record in incoming.batch.records:
            if record.seq in seqs:
                continue
            seqs[record.seq] = None
            try:
                if zlib.crc32(record.payload) != record.crc32:
                    raise Unreadable("the checksum does not match")
                read(parts, number, record, incoming, window)
            except Unreadable as error:
                parts.rejects.append(Reject(number, record.seq, str(error), record.payload))
        parts.seqs.append(list(seqs))
    return parts


def _read_metrics(
    parts: Parts, number: int, record: Record, incoming: Incoming, window: Window
) -> None:
    payload = memoryview(record.payload)
    end, offset = len(payload), 0
    found: list[Piece] = []
    while offset < end:
        if end - offset < SECTION.size:
            raise Unreadable("it ends inside a section header")
        code, count, at_us, list_id = SECTION.unpack_from(payload, offset)
        offset += SECTION.size
        layout = incoming.source.layouts.get(code)
        if layout is None:
            raise Unreadable(f"table {code} was not declared")
        stop = offset + count * layout.dtype.itemsize
        if stop > end:
            raise Unreadable(f"it ends inside the rows of table {code}")
        if len(found) == MAX_SECTIONS:
            raise Unreadable("it has too many sections")
        found.append(
            Piece(
                number,
                record.seq,
                layout,
                at_us,
                count,
                _subjects(incoming, layout, list_id),
                payload[offset:stop],
            )
        )
        offset = stop
    _keep_timely(parts, number, found, window)


def _keep_timely(parts: Parts, number: int, found: Sequence[Piece], window: Window) -> None:
    for piece in found:
        if window.oldest_us <= piece.at_us <= window.newest_us:
            if piece.row_count:
                parts.pieces.append(piece)
        else:
            parts.rows_rejected[number] += piece.row_count


def _subjects(incoming: Incoming, layout: Layout, list_id: int) -> npt.NDArray[I4]:
    if layout.table.subject == "node":
        return incoming.source.node_list
    subjects = incoming.gpu_lists.get(list_id)
    if subjects is None:
        raise Unreadable(f"GPU list {list_id} was not sent before it")
    return subjects


def _read_happenings(
    parts: Parts, number: int, record: Record, incoming: Incoming, window: Window
) -> None:
    del incoming, window
    try:
        happenings = decode_happenings(record.payload)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise Unreadable(f"it is no list of events: {str(error)[:200]}") from None
    if len(happenings) > MAX_HAPPENINGS:
        raise Unreadable("it has too many events")
    parts.told.extend(Told(number, record.seq, happening) for happening in happenings)


@dataclass(slots=True)
class Assembled:
    """One table's rows of a group, and which batch each rejected reading and row came with."""

    rows: Rows
    readings_rejected: npt.NDArray[I4]
    rows_rejected: npt.NDArray[I4]


def assemble(pieces: Iterable[Piece]) -> list[Assembled]:
    """Join pieces into checked rows, table by table."""
    by_layout: dict[int, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_layout[id(piece.layout)].append(piece)
    by_table: dict[int, list[tuple[Rows, npt.NDArray[I4], npt.NDArray[I4]]]] = defaultdict(list)
    merged = _merge_own(by_layout.values())
    for same in merged:
        by_table[same[0].layout.table.code].append(_join(same))
    return [_concatenate(joined) for joined in by_table.values()]


def _merge_own(groups: Iterable[list[Piece]]) -> list[list[Piece]]:
    """Layouts of equal form from different connections are one."""
    by_form: dict[tuple[int, np.dtype[np.void]], list[Piece]] = {}
    for same in groups:
        layout = same[0].layout
        by_form.setdefault((layout.table.code, layout.dtype), []).extend(same)
    return list(by_form.values())


def _join(pieces: list[Piece]) -> tuple[Rows, npt.NDArray[I4], npt.NDArray[I4]]:
    layout = pieces[0].layout
    table = layout.table
    data = np.frombuffer(b"".join([p.rows for p in pieces]), layout.dtype)
    counts = np.array([p.row_count for p in pieces])
    batch = np.repeat(np.array([p.batch for p in pieces], I4), counts)
    at_us = np.repeat(np.array([p.at_us for p in pieces], I8), counts)
    ids = _resolve(pieces, counts, data["subject"])
    unknown = ids == UNKNOWN
    lost = np.empty(0, I4)
    if unknown.any():
        known = ~unknown
        lost = batch[unknown]
        data, batch, at_us, ids = data[known], batch[known], at_us[known], ids[known]
    rejected = np.empty(0, I4)
    if not layout.own:
        data, _ = adapt(data, layout)
    if len(data):
        present, rejected = check_values(table, data, batch)
    else:
        present = np.empty(0, np.uint64)
    return Rows(table, ids, at_us, present, data, batch), rejected, lost


def _resolve(
    pieces: list[Piece], counts: npt.NDArray[np.int64], subject: npt.NDArray[np.uint8]
) -> npt.NDArray[I4]:
    """Turn positions in GPU lists into database ids, all at once; UNKNOWN where there is none."""
    base_of: dict[int, int] = {}
    lists: list[npt.NDArray[I4]] = []
    size = 0
    bases = []
    for piece in pieces:
        key = id(piece.subjects)
        base = base_of.get(key)
        if base is None:
            base = base_of[key] = size
            lists.append(piece.subjects)
            size += len(piece.subjects)
        bases.append(base)
    every = np.concatenate([*lists, np.array([UNKNOWN], I4)])
    lengths = np.repeat(np.array([len(p.subjects) for p in pieces]), counts)
    position = np.repeat(np.array(bases), counts) + subject
    return every[np.where(subject < lengths, position, size)]


def _concatenate(joined: list[tuple[Rows, npt.NDArray[I4], npt.NDArray[I4]]]) -> Assembled:
    rows, rejected, lost = zip(*joined, strict=True)
    first = rows[0]
    if len(rows) > 1:
        first = Rows(
            first.table,
            np.concatenate([r.subject_ids for r in rows]),
            np.concatenate([r.at_us for r in rows]),
            np.concatenate([r.present for r in rows]),
            np.concatenate([r.data for r in rows]),
            np.concatenate([r.batch for r in rows]),
        )
    return Assembled(first, np.concatenate(rejected), np.concatenate(lost))


MINUTE_US = 60_000_000
FRESH_MINUTES = 2
FEW_SUBJECTS = 32


def due_marks(rows: Rows, now_us: int) -> set[tuple[int, int, int | None]]:
    """Which rollups these rows make stale: (table code, minute since 1970, subject id or None for all)."""
    minutes = rows.at_us // MINUTE_US
    fresh = now_us // MINUTE_US - FRESH_MINUTES
    marks: set[tuple[int, int, int | None]] = set()
    code = rows.table.code
    for minute in np.unique(minutes).tolist():
        subjects = np.unique(rows.subject_ids[minutes == minute]) if minute < fresh else None
        if subjects is None or len(subjects) > FEW_SUBJECTS:
            marks.add((code, minute, None))
        else:
            marks.update((code, minute, subject) for subject in subjects.tolist())
    return marks


class Kept(NamedTuple):
    """One row of the quarantine: a batch's unreadable records of one reason."""

    batch: int
    reason: str
    first_seq: int
    records: int
    payload: bytes
    payload_bytes: int


def quarantine_rows(rejects: Sequence[Reject]) -> list[Kept]:
    """Fold rejects so that one hostile batch makes a handful of rows."""
    folded: dict[tuple[int, str], list[Reject]] = defaultdict(list)
    for reject in rejects:
        folded[reject.batch, reject.reason].append(reject)
    return [
        Kept(
            batch,
            reason,
            same[0].seq,
            len(same),
            same[0].payload[:QUARANTINED_PAYLOAD_BYTES],
            len(same[0].payload),
        )
        for (batch, reason), same in folded.items()
    ]


def window_at(now_us: int, raw_days: int) -> Window:
    """The sample times taken at this moment: what retention would drop at once is not."""
    return Window(now_us - raw_days * 86_400_000_000, now_us + FUTURE_US)
