"""Random histories of a spool, checked against the ledger: stored + gaps == produced, whatever happens (I12)."""

import errno
import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.fakes.disk import FakeDisk, PowerCut
from tests.fakes.ledger import Ledger
from tests.fakes.spool_damage import MANGLES, open_spool, payload

LANES = st.sampled_from(("metrics", "metrics", "events"))
LIMIT = {"metrics_limit_bytes": 3000}
PLENTY = 1 << 40


class SpoolMachine(RuleBasedStateMachine):
    """Append, send, lose replies, reorder acks, restart, lose power, fill the disk, damage files."""

    def __init__(self):
        super().__init__()
        self.disk = FakeDisk()
        self.ledger = Ledger()
        self.spool = open_spool(self.disk, **LIMIT)
        self.sent = []
        self.damaged = self.overlap = False
        self.number = 0

    @rule(lane=LANES, size=st.integers(1, 250), count=st.integers(1, 12))
    def append(self, lane, size, count):
        for _ in range(count):
            prefix = b"\x90" if lane == "events" else b""
            self.ledger.append(self.spool, lane, prefix + payload(self.number, size))
            self.number += 1

    @rule(lane=LANES, records=st.integers(1, 9))
    def send_and_be_acknowledged(self, lane, records):
        taken = self.ledger.deliver(self.spool, lane, records=records)
        if taken:
            self.spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])

    @rule(lane=LANES, records=st.integers(1, 9))
    def send_and_hear_nothing_yet(self, lane, records):
        taken = self.ledger.deliver(self.spool, lane, records=records)
        if taken:
            self.sent.append((taken[0], (taken[1][0], taken[1][-1])))
            self.overlap = (
                True  # stored, and a gap later if it is dropped or damaged before the ack
            )

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def hear_a_late_ack(self, data):
        spool_id, part = self.sent.pop(data.draw(st.integers(0, len(self.sent) - 1)))
        self.spool.acknowledge(spool_id, [part])

    @rule()
    def restart(self):
        self.spool.close()
        self.spool = open_spool(self.disk, **LIMIT)

    @rule(mode=st.sampled_from(("killed", "lost", "some")), seed=st.integers(0, 99))
    def lose_power(self, mode, seed):
        self._reboot(mode, seed)

    @rule(
        mode=st.sampled_from(("killed", "lost", "some")),
        seed=st.integers(0, 99),
        after=st.integers(1, 12),
        lane=LANES,
    )
    def lose_power_while_appending(self, mode, seed, after, lane):
        self.disk.cut_at = self.disk.operations + after
        try:
            self.append(lane, 80, 4)
        except PowerCut:
            self._reboot(mode, seed)
        self.disk.cut_at = None

    @rule(room=st.integers(0, 800), lane=LANES, count=st.integers(1, 10))
    def append_on_a_full_disk(self, room, lane, count):
        self.disk.capacity = PLENTY - self.disk.room() + room
        self.append(lane, 90, count)

    @rule()
    def free_the_disk(self):
        self.disk.capacity = PLENTY

    @rule(lane=LANES)
    def append_with_an_error(self, lane):
        errors = iter([OSError(errno.EIO, "input/output error")])
        self.disk.fail = lambda name: next(errors, None)
        self.append(lane, 50, 1)
        self.disk.fail = None

    @rule(seed=st.integers(0, 999))
    def damage_a_segment(self, seed):
        self.spool.close()
        rng = random.Random(seed)
        rng.choice(MANGLES)(self.disk, rng)
        self._doubt(damaged=True)
        self.spool = open_spool(self.disk, **LIMIT)

    def _doubt(self, *, overlap=False, damaged=False):
        self.overlap |= overlap
        self.damaged |= damaged
        self.ledger.may_repeat = self.overlap and self.damaged

    def _reboot(self, mode, seed):
        self.overlap = (
            True  # acks not yet saved are forgotten, and their records may be dropped later
        )
        capacity = self.disk.capacity
        self.disk = self.disk.after_power_cut(mode, random.Random(seed))
        self.disk.capacity = capacity
        self.spool = open_spool(self.disk, **LIMIT)

    def teardown(self):
        self.disk.capacity = PLENTY
        self.ledger.append(self.spool, "metrics", b"the end")
        self.ledger.append(self.spool, "events", b"\x90the end")
        self.ledger.drain(self.spool)
        # A power cut and the limit also make gaps of saved records, but each is a gap, and only one.
        self.ledger.check(damaged=True, may_overlap=self.overlap)
