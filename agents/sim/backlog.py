"""What one simulated node has produced and the server has not acknowledged: a spool in memory, with the agent's rules.

Newest first, resent after every reconnection until acknowledged. Metrics are bounded and give way oldest first, each loss
as a Gap; events never give way.
"""

import uuid
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from dcops.wire.frames import Gap, Record, Spool

ROOM_RECORDS = 20


class Held(NamedTuple):
    """A record, when it was produced (monotonic seconds) and the instant of its sample."""

    record: Record
    produced_s: float
    at_us: int


class Backlog:
    """The unacknowledged records of one spool. `limit` bounds how many; None never drops."""

    def __init__(self, spool: Spool, limit: int | None) -> None:
        self.spool = spool
        self.spool_id = uuid.uuid4().hex
        self.produced = self.acked = self.dropped = 0
        self._limit = limit
        self._next_seq = 1
        # Both by seq, in ascending order: popitem() takes the newest, iteration starts at the oldest.
        self._waiting: dict[int, Held] = {}
        self._in_flight: dict[int, Held] = {}

    @property
    def waiting(self) -> int:
        """Records to be sent, or sent again."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Records sent on this connection and not answered."""
        return len(self._in_flight)

    def append(self, payload: bytes, *, produced_s: float, at_us: int) -> Gap | None:
        """Number and keep a record. Returns the Gap that its room cost, if any."""
        record = Record(self._next_seq, zlib.crc32(payload), payload)
        self._next_seq += 1
        self.produced += 1
        gap = self._make_room() if self._limit is not None and self._full() else None
        self._waiting[record.seq] = Held(record, produced_s, at_us)
        return gap

    def _full(self) -> bool:
        return len(self._waiting) + len(self._in_flight) >= (self._limit or 0)

    def _make_room(self) -> Gap | None:
        """Forget a run of the oldest records that are not on their way: many at once, so that gaps stay few."""
        lost: list[Held] = []
        for seq, held in self._waiting.items():
            if len(lost) >= ROOM_RECORDS or (lost and seq != lost[-1].record.seq + 1):
                break
            lost.append(held)
        if not lost:
            return None
        for held in lost:
            del self._waiting[held.record.seq]
        self.dropped += len(lost)
        first, last = lost[0], lost[-1]
        return Gap(
            self.spool_id,
            first.record.seq,
            last.record.seq,
            first.at_us,
            last.at_us,
            "the simulated spool was full",
        )

    def take(self, count: int) -> list[Record]:
        """Up to `count` records to send now, newest first; they count as in flight."""
        taken: list[Record] = []
        while self._waiting and len(taken) < count:
            seq, held = self._waiting.popitem()
            self._in_flight[seq] = held
            taken.append(held.record)
        return taken

    def ack(self, ranges: Iterable[tuple[int, int]]) -> list[Held]:
        """Forget what the server has; returns it. Numbers that were never sent are ignored."""
        done = [held for first, last in ranges for held in self._pop_range(first, last)]
        self.acked += len(done)
        return done

    def discard(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Forget what the server will never take; returns how many."""
        done = [held for first, last in ranges for held in self._pop_range(first, last)]
        self.dropped += len(done)
        return len(done)

    def _pop_range(self, first: int, last: int) -> list[Held]:
        if last - first < len(self._in_flight):
            found = (self._in_flight.pop(seq, None) for seq in range(first, last + 1))
            return [held for held in found if held is not None]
        return [self._in_flight.pop(seq) for seq in list(self._in_flight) if first <= seq <= last]

    def resend(self) -> None:
        """The connection is gone: what was in flight waits again."""
        if self._in_flight:
            self._waiting = dict(sorted((self._waiting | self._in_flight).items()))
            self._in_flight = {}
