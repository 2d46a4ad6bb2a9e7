"""The durable journal of a node: what is appended survives a crash until the server has acknowledged it.

Two lanes share one state file: *metrics* is bounded and gives way oldest first, *events* is never dropped and owns disk
space ahead of need. The rules that make `stored + gaps = produced` exact:

* every append takes a number, saved or not, and the next number is durable (marks.Tail);
* a number is *settled* when it was acknowledged or its loss is recorded; the state file says so, durably, before the
  segment that held it is deleted;
* every other number below the next one must be readable in a segment. If it is not, it is lost, and a Gap says so;
* a Gap travels in the events spool. The state file keeps it as a Notice until the server has acknowledged that record,
  so that a crash in between neither forgets it nor says it twice;
* whenever the next number is in doubt, a new spool id begins: no number ever names two records.
"""

import errno
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agents.adapters.disk import Disk, RealDisk
from agents.adapters.lane import Lane
from agents.adapters.marks import Notice, State, StateFile
from agents.ranges import Range
from dcops.wire.frames import Gap, encode_happenings

log = logging.getLogger(__name__)

METRICS_LIMIT_BYTES = 2 << 30
METRICS_SEGMENT_BYTES = 1 << 20
EVENTS_SEGMENT_BYTES = 256 << 10
EVENTS_SPARES = 8  # segments allocated ahead: 2 MiB, some 10,000 events while the disk is full
_SAVE_EVERY_ACKS = 64  # acks forgotten in a crash are only sent again
_DELETE_AT_ONCE = 8  # segments, so that draining a backlog does not wait for the disk at each
_GAPS_A_RECORD = 500
_NOT_YET = -1
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def _now_us() -> int:
    return time.time_ns() // 1000


def _new_id() -> str:
    return secrets.token_hex(16)


class Spool:
    """Both lanes. `spool.metrics.append(payload)`, `spool.events.append(payload)`, `spool.acknowledge(...)`."""

    def __init__(
        self,
        directory: Path,
        *,
        disk: Disk | None = None,
        metrics_limit_bytes: int = METRICS_LIMIT_BYTES,
        metrics_segment_bytes: int = METRICS_SEGMENT_BYTES,
        events_segment_bytes: int = EVENTS_SEGMENT_BYTES,
        events_spares: int = EVENTS_SPARES,
        now_us: Callable[[], int] = _now_us,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        """Open or create. Damage never raises; OSError means that the directory itself cannot be used."""
        self.now_us = now_us
        self._new_id = new_id
        self._disk = disk or RealDisk()
        self._limit = metrics_limit_bytes
        self._segment_bytes = metrics_segment_bytes
        self._notices: list[Notice] = []
        self._garbage: list[Path] = []
        self._acks_unsaved = 0
        self._unsaved = False
        self._recording = False
        self._complained = False
        self._disk.make_directory(directory)
        self._state = StateFile(self._disk, directory)
        self.metrics = Lane(self, self._disk, directory / "metrics", metrics_segment_bytes, 0)
        self.events = Lane(
            self, self._disk, directory / "events", events_segment_bytes, events_spares
        )
        self._start()

    def _start(self) -> None:
        state = self._state.load()
        self._garbage += self.metrics.load(state.metrics if state else None)
        self._garbage += self.events.load(state.events if state else None)
        self._notices = state.notices if state else []
        fresh = [
            lane
            for lane in (self.metrics, self.events)
            if state is None or not lane.can_continue()
        ]
        for lane in fresh:
            lane.begin(self._new_id())
        self._save()
        for lane in fresh:
            with suppress(OSError):
                lane.begin_tail()
        for notice in self._notices:
            if not self.events.is_waiting(notice.spool_id, notice.seq):
                notice.seq = _NOT_YET
        with suppress(OSError):
            self.events.allocate_spares()
        self.record_losses()

    # --- for the link

    def acknowledge(self, spool_id: str, ranges: list[Range]) -> None:
        """The server has these records, for good: never send them again, and delete what holds nothing else."""
        self._garbage += self.metrics.settle(spool_id, ranges)
        self._garbage += self.events.settle(spool_id, ranges)
        self._notices = [
            notice
            for notice in self._notices
            if notice.spool_id != spool_id
            or not any(first <= notice.seq <= last for first, last in ranges)
        ]
        self._acks_unsaved += 1
        if self._acks_unsaved >= _SAVE_EVERY_ACKS or len(self._garbage) >= _DELETE_AT_ONCE:
            self._save()

    def close(self) -> None:
        """Save what is known and let go of the files."""
        self._save()
        self.metrics.close()
        self.events.close()
        self._state.close()

    # --- for the lanes (lane.Owner)

    def make_room(self, lane: Lane, error: OSError) -> bool:
        """Free space for a write that failed: first what was acknowledged, then, for an event, the oldest metrics."""
        if error.errno in _NO_SPACE:
            if self._garbage and self._save():
                return True
            oldest = self.metrics.drop_oldest() if lane is self.events else None
            if oldest is not None:
                self._garbage.append(oldest)
                return self._save()
        if not self._complained:
            log.error(
                "The spool cannot be written (%s). What is not saved is counted as a gap.", error
            )
            self._complained = True
        return False

    def before_segment(self, lane: Lane) -> None:
        """Keep the metrics within their limit, and delete what is done."""
        if lane is self.metrics:
            while self.metrics.size_bytes + self._segment_bytes > self._limit:
                oldest = self.metrics.drop_oldest()
                if oldest is None:
                    break
                self._garbage.append(oldest)
        if self._garbage:
            self._save()

    def after_append(self, lane: Lane, *, saved: bool) -> None:
        """When the disk takes writes (again), write what waits for that."""
        if not saved:
            return
        if self._complained and lane is self.metrics:
            log.info("The spool can be written again.")
            self._complained = False
        if self._unsaved:
            self._save()
        self.record_losses()

    def record_losses(self) -> None:
        """Make every known loss a Gap in the events spool: durable as a Notice first, then appended."""
        if self._recording:
            return
        self._recording = True
        try:
            self._note_losses()
            due = [notice for notice in self._notices if notice.seq == _NOT_YET]
            if due:
                self._append_notices(due)
        finally:
            self._recording = False

    def _append_notices(self, due: list[Notice]) -> None:
        for position, notice in enumerate(due):
            notice.spool_id = self.events.spool_id
            notice.seq = self.events.next_seq + position
        if self._save():
            for notice in due:  # one that is lost is due again by _note_losses
                self.events.append(encode_happenings([*notice.gaps]))
        else:
            for notice in due:
                notice.seq = _NOT_YET

    def _note_losses(self) -> bool:
        """Turn losses into notices, and make notices whose record was itself lost due again. False if there were none."""
        lost_events = [
            (loss.numbers.spool_id, loss.first, loss.last) for loss in self.events.losses
        ]
        for notice in self._notices:
            if any(notice.spool_id == i and f <= notice.seq <= n for i, f, n in lost_events):
                notice.seq = _NOT_YET
        gaps: list[Gap] = []
        for lane in (self.metrics, self.events):
            for loss in lane.losses:
                loss.numbers.settle(loss.first, loss.last)
                gaps.append(loss.gap())
            lane.losses.clear()
        for start in range(0, len(gaps), _GAPS_A_RECORD):
            self._notices.append(Notice("", _NOT_YET, gaps[start : start + _GAPS_A_RECORD]))
        return bool(gaps)

    def _save(self) -> bool:
        """Make the state durable, and only then delete what it has no more use for."""
        if self._note_losses():
            self._garbage += self.metrics.sweep() + self.events.sweep()
        self._acks_unsaved = 0
        metrics = self.metrics.sequences(self._garbage)
        events = self.events.sequences(self._garbage)
        try:
            self._state.save(State(metrics, events, self._notices))
        except OSError:
            self._unsaved = True
            return False
        self._unsaved = False
        self._delete_garbage()
        return True

    def _delete_garbage(self) -> None:
        """Delete files that hold nothing to send. One stays on the list until it is surely gone."""
        for directory in {path.parent for path in self._garbage}:
            doomed = [path for path in self._garbage if path.parent == directory]
            try:
                for path in doomed:
                    with suppress(FileNotFoundError):
                        self._disk.remove(path)
                self._disk.sync_directory(directory)
            except OSError:
                continue
            self._garbage = [path for path in self._garbage if path.parent != directory]
