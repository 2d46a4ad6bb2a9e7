"""One lane of the spool: numbered records in append-only segment files. Memory holds a line per segment, not per record."""

import errno
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from re import compile as pattern
from typing import Protocol
from zlib import crc32

from agents.adapters.disk import Disk, File
from agents.adapters.marks import Sequence, Tail
from agents.adapters.records import Stored, pack, scan, seed_of
from agents.ranges import Range, RangeSet
from dcops.wire.frames import MAX_RECORD_BYTES, Gap, Record

RECENT_BYTES = (
    64 << 10
)  # the newest records, also kept in memory so that sending them reads no file
REASON_LIMIT = "the spool reached its limit"
REASON_UNSAVED = "the disk did not take it"
REASON_DAMAGED = "missing or damaged on the node's disk"

_SEGMENT_NAME = pattern(r"([0-9a-f]{32})-([0-9a-f]{16})\.seg")
_FRAMING_BYTES = 24  # what msgpack adds to a record's payload, at most
_GONE_FOR_GOOD = frozenset({errno.ENOENT, errno.EIO})

Busy = Mapping[str, RangeSet]


@dataclass(slots=True, eq=False)
class Numbers:
    """The numbers given out under one spool id. gone = settled, and lost but not yet recorded as such."""

    spool_id: str
    next_seq: int = 0
    settled: RangeSet = field(default_factory=RangeSet)
    gone: RangeSet = field(default_factory=RangeSet)

    def settle(self, first: int, last: int) -> None:
        """These were acknowledged, or their loss is recorded."""
        self.settled.add(first, last)
        self.gone.add(first, last)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to send or to record."""
        return self.settled.covers(0, self.next_seq - 1)


@dataclass(slots=True, eq=False)
class Segment:
    """A file of records. It answers for first..last, found in it or not; last is first - 1 while it is empty."""

    numbers: Numbers
    first: int
    last: int
    path: Path
    size: int


@dataclass(slots=True, eq=False)
class Loss:
    """Numbers that will never be sent and that no Gap tells of yet. Times are the neighbours', 0 if unknown."""

    numbers: Numbers
    first: int
    last: int
    first_at_us: int
    last_at_us: int
    reason: str

    def gap(self) -> Gap:
        """The loss as the server hears of it."""
        spool_id = self.numbers.spool_id
        return Gap(spool_id, self.first, self.last, self.first_at_us, self.last_at_us, self.reason)


class Owner(Protocol):
    """What a lane asks of the spool it belongs to."""

    now_us: Callable[[], int]

    def make_room(self, lane: "Lane", error: OSError) -> bool:
        """After a failed write: free some disk space. False if there is nothing to free."""

    def before_segment(self, lane: "Lane") -> None:
        """A new segment is about to be made."""

    def after_append(self, lane: "Lane", *, saved: bool) -> None:
        """A number was taken, its record saved or lost."""

    def record_losses(self) -> None:
        """Reading found records missing: make Gaps of them."""


class Lane:
    """One spool as the sampler and the link see it."""

    def __init__(
        self, owner: Owner, disk: Disk, directory: Path, segment_bytes: int, spares: int
    ) -> None:
        self.losses: list[Loss] = []
        self._owner = owner
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._spares = spares
        self._tail = Tail(disk, directory / "tail")
        self._runs: list[Numbers] = []
        self._segments: list[Segment] = []
        self._file: File | None = None
        self._recent: OrderedDict[int, Record] = OrderedDict()
        self._recent_bytes = 0
        self._loaded = _Loaded(Path(), -1, b"", {})
        self._found_loss = False

    @property
    def spool_id(self) -> str:
        """The id under which new records are numbered."""
        return self._runs[-1].spool_id

    @property
    def next_seq(self) -> int:
        """The number of the next record."""
        return self._runs[-1].next_seq

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, that allocated ahead not counted."""
        return sum(segment.size for segment in self._segments)

    @property
    def waiting(self) -> int:
        """How many records wait for the server; damage not yet found counts as waiting."""
        return sum(run.next_seq - run.gone.count() for run in self._runs)

    # --- writing

    def append(self, payload: bytes) -> int | None:
        """Write one record; return its number once it is durable, or None if the disk did not take it (a Gap will say so)."""
        if len(payload) > MAX_RECORD_BYTES:
            raise ValueError(f"a record may have {MAX_RECORD_BYTES} bytes, not {len(payload)}")
        run = self._runs[-1]
        seq = run.next_seq
        run.next_seq += 1
        at_us = self._owner.now_us()
        saved = self._save(run, seq, pack(seed_of(run.spool_id), seq, at_us, payload))
        if saved:
            self._remember(Record(seq, crc32(payload), payload))
        else:
            self._lose(run, seq, seq, at_us, at_us, REASON_UNSAVED)
        with suppress(OSError):
            self._tail.advance(run.spool_id, run.next_seq)
        self._owner.after_append(self, saved=saved)
        return seq if saved else None

    def _save(self, run: Numbers, seq: int, record: bytes) -> bool:
        while True:
            try:
                self._write(run, seq, record)
            except OSError as error:
                self._abandon()
                if not self._owner.make_room(self, error):
                    return False
            else:
                return True

    def _write(self, run: Numbers, seq: int, record: bytes) -> None:
        if self._file and self._segments[-1].size + len(record) > self._segment_bytes:
            self._seal()
        file = self._file or self._begin_segment(run, seq)
        segment = self._segments[-1]
        file.write_at(segment.size, record)
        file.sync()
        segment.size += len(record)
        segment.last = seq

    def _begin_segment(self, run: Numbers, first: int) -> File:
        self._owner.before_segment(self)
        path = self._directory / f"{run.spool_id}-{first:016x}.seg"
        self._disk.make_directory(self._directory)
        spare = next(self._spare_names(), None)
        if spare:
            self._disk.rename(self._directory / spare, path)
        self._segments.append(Segment(run, first, first - 1, path, 0))
        self._file = self._disk.open(path)
        if self._spares and not spare:
            self._file.allocate(self._segment_bytes)
        self._disk.sync_directory(self._directory)
        return self._file

    def _seal(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _abandon(self) -> None:
        """After a failed write nothing is sure about the end of the file: go on in another one."""
        self._seal()
        if self._segments and self._segments[-1].last < self._segments[-1].first:
            segment = self._segments.pop()
            with suppress(OSError):
                self._disk.remove(segment.path)

    def _spare_names(self) -> Iterator[str]:
        if self._spares:
            yield from (n for n in self._disk.names(self._directory) if n.startswith("spare-"))

    def allocate_spares(self) -> None:
        """Take the disk space that later segments will need, as far as there is any. Raises OSError if not."""
        present = set(self._spare_names())
        for name in (f"spare-{number}" for number in range(self._spares)):
            if name not in present:
                self._allocate(self._directory / name)

    def _allocate(self, path: Path) -> None:
        file = self._disk.open(path)
        try:
            file.allocate(self._segment_bytes)
            file.sync()
        except OSError:
            with suppress(OSError):
                self._disk.remove(path)
            raise
        finally:
            file.close()

    def _remember(self, record: Record) -> None:
        self._recent[record.seq] = record
        self._recent_bytes += len(record.payload)
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest.payload)

    # --- reading

    def newest(
        self, busy: Busy, max_records: int, max_bytes: int
    ) -> tuple[str, list[Record]] | None:
        """The newest records neither settled nor busy, ascending, all of one spool id; None if there are none.

        Raises OSError if a segment cannot be read now but may be later.
        """
        found = self._search(busy, max_records, max_bytes)
        while (
            self._found_loss
        ):  # on a full disk, recording it may cost the very records just found
            self._found_loss = False
            self._owner.record_losses()
            found = self._search(busy, max_records, max_bytes)
        return found

    def _search(
        self, busy: Busy, max_records: int, max_bytes: int
    ) -> tuple[str, list[Record]] | None:
        position = len(self._segments) - 1
        while position >= 0:
            segment = self._segments[position]
            wanted = _last_run(segment, busy.get(segment.numbers.spool_id))
            if wanted is None:
                position -= 1
            elif records := self._collect(segment, wanted, max_records, max_bytes):
                return segment.numbers.spool_id, records
        return None

    def _collect(
        self, segment: Segment, wanted: Range, max_records: int, max_bytes: int
    ) -> list[Record]:
        first, last = wanted
        recent = segment.numbers is self._runs[-1] and last in self._recent
        read = self._recent.get if recent else self._load(segment).record
        records: list[Record] = []
        room = max_bytes
        for seq in range(last, max(first, last - max_records + 1) - 1, -1):
            record = read(seq)
            if record is None:
                break
            room -= len(record.payload) + _FRAMING_BYTES
            if room < 0 and records:
                break
            records.append(record)
        records.reverse()
        return records

    def _load(self, segment: Segment) -> "_Loaded":
        """Read a segment; what should be in it and is not becomes a loss."""
        if (self._loaded.path, self._loaded.last) != (segment.path, segment.last):
            data = self._read(segment)
            index: dict[int, Stored] = {}
            for stored in scan(data, seed_of(segment.numbers.spool_id)):
                index.setdefault(stored.seq, stored)
            self._loaded = _Loaded(segment.path, segment.last, data, index)
            self._lose_missing(segment, index)
        return self._loaded

    def _read(self, segment: Segment) -> bytes:
        try:
            return self._disk.read(segment.path)
        except OSError as error:
            if error.errno in _GONE_FOR_GOOD:
                return b""
            raise

    def _lose_missing(self, segment: Segment, index: Mapping[int, Stored]) -> None:
        cursor, before_us = segment.first, 0
        inside = sorted(s for s in index.values() if segment.first <= s.seq <= segment.last)
        end = Stored(segment.last + 1, inside[-1].at_us if inside else 0, 0, 0, 0)
        for stored in (*inside, end):
            for first, last in list(segment.numbers.gone.missing(cursor, stored.seq - 1)):
                started_us = before_us or stored.at_us
                self._lose(segment.numbers, first, last, started_us, stored.at_us, REASON_DAMAGED)
                self._found_loss = True
            cursor, before_us = stored.seq + 1, stored.at_us

    # --- losing and settling

    def _lose(
        self, run: Numbers, first: int, last: int, first_at_us: int, last_at_us: int, reason: str
    ) -> None:
        run.gone.add(first, last)
        newest = self.losses[-1] if self.losses else None
        if newest and (newest.numbers, newest.last, newest.reason) == (run, first - 1, reason):
            newest.last, newest.last_at_us = last, last_at_us
        else:
            self.losses.append(Loss(run, first, last, first_at_us, last_at_us, reason))

    def drop_oldest(self) -> Path | None:
        """Give up the oldest sealed segment, as losses; return its file, to be deleted once they are recorded."""
        if not self._segments or (self._file and len(self._segments) == 1):
            return None
        segment = self._segments.pop(0)
        times = [0]
        with suppress(OSError):
            seed = seed_of(segment.numbers.spool_id)
            times = [s.at_us for s in scan(self._disk.read(segment.path), seed)] or times
        for first, last in list(segment.numbers.gone.missing(segment.first, segment.last)):
            self._lose(segment.numbers, first, last, times[0], times[-1], REASON_LIMIT)
        return segment.path

    def settle(self, spool_id: str, ranges: list[Range]) -> list[Path]:
        """The server has these. Return the files that hold nothing else, to be deleted once that is durable."""
        run = next((run for run in self._runs if run.spool_id == spool_id), None)
        if run is None:
            return []
        for first, last in ranges:
            run.settle(max(first, 0), min(last, run.next_seq - 1))
        return self.sweep(run)

    def sweep(self, run: Numbers | None = None) -> list[Path]:
        """Forget the sealed segments (of one run) that hold nothing to send; return their files."""
        sealed = self._segments[:-1] if self._file else self._segments
        done = [
            segment
            for segment in sealed
            if run in (None, segment.numbers)
            and segment.numbers.settled.covers(segment.first, segment.last)
        ]
        if done:
            self._segments = [segment for segment in self._segments if segment not in done]
        return [segment.path for segment in done]

    def is_waiting(self, spool_id: str, seq: int) -> bool:
        """Whether this record was written and is neither acknowledged nor lost."""
        run = next((run for run in self._runs if run.spool_id == spool_id), None)
        return run is not None and seq < run.next_seq and seq not in run.gone

    # --- starting and stopping

    def sequences(self, garbage: list[Path]) -> list[Sequence]:
        """What the state file must know. A finished run stays as long as a file of it could reappear."""
        needed = {segment.numbers.spool_id for segment in self._segments}
        needed |= {path.name.partition("-")[0] for path in garbage}
        self._runs = [
            run
            for run in self._runs
            if run is self._runs[-1] or not run.finished or run.spool_id in needed
        ]
        return [Sequence(run.spool_id, run.next_seq, list(run.settled)) for run in self._runs]

    def load(self, saved: list[Sequence] | None) -> list[Path]:
        """Take up what is on disk; `saved` is None if no state file was readable. Return files that hold nothing to send.

        Afterwards either the last run continues with a number that is certain, or `begin` must be called.
        """
        self._disk.make_directory(self._directory)
        known = {sequence.spool_id: _restored(sequence) for sequence in saved or []}
        runs = dict(known)
        segments = self._found_segments(runs)
        for run in runs.values():
            own = [segment for segment in segments if segment.numbers is run]
            self._take_up(run, own, forgotten=saved is None)
        self._runs = [run for run in runs.values() if run.spool_id not in known]
        self._runs += known.values()
        segments.sort(key=lambda s: (self._runs.index(s.numbers), s.first))
        self._segments = segments
        return self.sweep()

    def _found_segments(self, runs: dict[str, Numbers]) -> list[Segment]:
        segments = []
        for name in sorted(self._disk.names(self._directory)):
            match = _SEGMENT_NAME.fullmatch(name)
            if match is None:
                continue
            spool_id, first = match[1], int(match[2], 16)
            run = runs.setdefault(spool_id, Numbers(spool_id))
            segments.append(Segment(run, first, first - 1, self._directory / name, 0))
        return segments

    def _take_up(self, run: Numbers, segments: list[Segment], *, forgotten: bool) -> None:
        """Fix the run's next number, tell its segments what they answer for, and count what no segment answers for."""
        noted, _ = self._tail.load(run.spool_id)
        newest = self._newest_number(run, segments[-1]) if segments else -1
        run.next_seq = max(run.next_seq, newest + 1, noted)
        for segment, following in pairwise(segments):
            segment.last = following.first - 1
        if segments:
            segments[-1].last = run.next_seq - 1
        for segment in segments:
            with suppress(OSError):
                segment.size = self._disk.size(segment.path)
        unclaimed = segments[0].first - 1 if segments else run.next_seq - 1
        if forgotten:
            run.settle(0, unclaimed)
        for first, last in list(run.gone.missing(0, unclaimed)):
            self._lose(run, first, last, 0, 0, REASON_DAMAGED)

    def _newest_number(self, run: Numbers, segment: Segment) -> int:
        stored = scan(self._read(segment), seed_of(run.spool_id))
        return max((s.seq for s in stored), default=-1)

    def can_continue(self) -> bool:
        """Whether the next number of the last run is beyond doubt."""
        return bool(self._runs) and self._tail.load(self._runs[-1].spool_id)[1]

    def begin(self, spool_id: str) -> None:
        """Number new records from 0 under a new id."""
        self._runs.append(Numbers(spool_id))

    def begin_tail(self) -> None:
        """Make the first number of a new id durable. Raises OSError."""
        self._tail.begin(self.spool_id)

    def close(self) -> None:
        """Let go of the files."""
        self._seal()
        self._tail.close()


def _restored(sequence: Sequence) -> Numbers:
    run = Numbers(sequence.spool_id, sequence.next_seq)
    for first, last in sequence.settled:
        run.settle(first, last)
    return run


@dataclass(slots=True)
class _Loaded:
    """A segment in memory: where its records lie, by number."""

    path: Path
    last: int
    data: bytes
    index: dict[int, Stored]

    def record(self, seq: int) -> Record | None:
        """The record of this number, if it is there undamaged."""
        stored = self.index.get(seq)
        if stored is None:
            return None
        return Record(seq, stored.crc32, self.data[stored.offset : stored.offset + stored.length])


def _last_run(segment: Segment, busy: RangeSet | None) -> Range | None:
    """The topmost run of numbers in the segment that are to be sent and not busy."""
    for first, last in reversed(list(segment.numbers.gone.missing(segment.first, segment.last))):
        if busy is None:
            return first, last
        free = list(busy.missing(first, last))
        if free:
            return free[-1]
    return None
