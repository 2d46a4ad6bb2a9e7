"""The oracle of the spool's promise: what was produced is delivered once or covered by one gap, exactly."""

from collections import defaultdict
from dataclasses import dataclass, field

from agents.adapters.spool import Spool
from agents.ranges import RangeSet
from dcops.wire.frames import Gap, decode_happenings


@dataclass
class Ledger:
    """What a producer did, and what a server got of it. It trusts nothing that the spool says about itself."""

    produced: dict[tuple[str, int], bytes] = field(default_factory=dict)
    unsaved: set[tuple[str, int]] = field(default_factory=set)
    delivered: dict[tuple[str, int], bytes] = field(default_factory=dict)
    gapped: defaultdict[str, RangeSet] = field(default_factory=lambda: defaultdict(RangeSet))
    gaps: list[Gap] = field(default_factory=list)
    next_numbers: dict[str, int] = field(default_factory=dict)
    may_repeat: bool = (
        False  # a gap came, its ack was lost, its record was damaged: it comes again
    )

    def append(self, spool: Spool, name: str, payload: bytes) -> int | None:
        lane = getattr(spool, name)
        spool_id = lane.spool_id
        seq = lane.append(payload)
        if seq is None:
            self.unsaved.add((spool_id, lane.next_seq - 1))
        else:
            self.produced[spool_id, seq] = payload
        return seq

    def deliver(self, spool: Spool, name: str, *, records: int = 50, busy=None):
        """Take the next batch as a server would. Returns (spool_id, seqs), or None when nothing waits."""
        found = getattr(spool, name).newest(busy or {}, records, 64 << 10)
        if found is None:
            return None
        spool_id, batch = found
        for record in batch:
            self.take(spool_id, record.seq, record.payload, events=name == "events")
        return spool_id, [record.seq for record in batch]

    def take(self, spool_id: str, seq: int, payload: bytes, *, events: bool) -> None:
        known = self.delivered.get((spool_id, seq))
        if known is not None:
            assert known == payload, f"number {seq} names two records"
            return
        self.delivered[spool_id, seq] = payload
        if events and payload[:1] != b"\x90":  # an empty list, with which tests mark their own
            for happening in decode_happenings(payload):
                if isinstance(happening, Gap):
                    self._take_gap(happening)

    def _take_gap(self, gap: Gap) -> None:
        already = list(self.gapped[gap.spool_id].within(gap.first_seq, gap.last_seq))
        assert not already or self.may_repeat, f"{gap} repeats {already}"
        self.gaps.append(gap)
        self.gapped[gap.spool_id].add(gap.first_seq, gap.last_seq)

    def drain(self, spool: Spool) -> None:
        """Deliver and acknowledge until nothing is left in either lane."""
        for lane in (spool.metrics, spool.events):
            self.next_numbers[lane.spool_id] = lane.next_seq
        while taken := self.deliver(spool, "metrics") or self.deliver(spool, "events"):
            spool_id, seqs = taken
            spool.acknowledge(spool_id, [(seqs[0], seqs[-1])])
        for lane in (spool.metrics, spool.events):
            self.next_numbers[lane.spool_id] = lane.next_seq

    def check(self, *, damaged: bool = False, may_overlap: bool = False) -> None:
        """stored + gaps == produced, nothing twice. damaged: saved records may be gaps.

        may_overlap: the spool never heard, or could not keep, that a record is stored, and may call it lost later. Then
        the server makes it one or the other: it takes from a gap what it has stored, and stores nothing of a gap it kept.
        """
        stored = defaultdict(RangeSet)
        for spool_id, seq in self.delivered:
            stored[spool_id].add(seq, seq)
        for (spool_id, seq), payload in self.produced.items():
            got = self.delivered.get((spool_id, seq))
            assert got == payload or (damaged and got is None and seq in self.gapped[spool_id]), (
                f"{spool_id[:4]}:{seq} was saved and is lost"
            )
        for spool_id, seq in self.unsaved - set(self.delivered):
            assert seq in self.gapped[spool_id], f"{spool_id[:4]}:{seq} was not saved, no gap"
        for spool_id, next_seq in self.next_numbers.items():
            self._check_run(spool_id, next_seq, stored[spool_id], may_overlap)

    def _check_run(
        self, spool_id: str, next_seq: int, stored: RangeSet, may_overlap: bool
    ) -> None:
        whole = RangeSet(stored)
        for first, last in self.gapped[spool_id]:
            overlap = list(stored.within(first, last))
            assert may_overlap or not overlap, f"stored and a gap: {overlap}"
            whole.add(first, last)
        assert list(whole) == ([(0, next_seq - 1)] if next_seq else []), (
            f"{spool_id[:4]}: {list(whole)} of {next_seq} (gaps {list(self.gapped[spool_id])})"
        )
