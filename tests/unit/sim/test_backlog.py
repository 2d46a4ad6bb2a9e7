"""The simulated spool counts exactly and gives way only as it says."""

from hypothesis import given
from hypothesis import strategies as st

from agents.sim.backlog import Backlog
from dcops.wire.frames import Spool


def filled(count: int, limit: int | None = None) -> tuple[Backlog, list]:
    spool = Backlog(Spool.METRICS, limit)
    gaps = [spool.append(b"%d" % i, produced_s=0.0, at_us=i) for i in range(1, count + 1)]
    return spool, [gap for gap in gaps if gap is not None]


def test_the_newest_goes_first():
    spool, _ = filled(5)
    assert [r.seq for r in spool.take(2)] == [5, 4]
    spool.append(b"6", produced_s=0.0, at_us=6)
    assert [r.seq for r in spool.take(10)] == [6, 3, 2, 1]


def test_what_was_not_acknowledged_is_sent_again_newest_first():
    spool, _ = filled(5)
    spool.take(5)
    spool.ack([(2, 3)])
    spool.append(b"6", produced_s=0.0, at_us=6)
    spool.resend()
    assert [r.seq for r in spool.take(10)] == [6, 5, 4, 1]


def test_an_ack_counts_once_and_only_what_was_sent():
    spool, _ = filled(4)
    spool.take(2)
    assert len(spool.ack([(1, 2**40)])) == 2
    assert spool.ack([(1, 4)]) == []
    assert (spool.produced, spool.acked, spool.waiting, spool.in_flight) == (4, 2, 2, 0)


def test_a_full_spool_drops_the_oldest_and_records_each_loss():
    spool, gaps = filled(100, limit=50)
    lost = [seq for gap in gaps for seq in range(gap.first_seq, gap.last_seq + 1)]
    assert lost == list(range(1, len(lost) + 1))
    assert spool.dropped == len(lost) > 0
    assert {gap.spool_id for gap in gaps} == {spool.spool_id}
    assert spool.waiting + spool.dropped == spool.produced == 100


def test_what_is_on_its_way_is_never_dropped():
    spool = Backlog(Spool.METRICS, 10)
    for i in range(10):
        spool.append(b"", produced_s=0.0, at_us=i)
    spool.take(10)
    assert spool.append(b"", produced_s=0.0, at_us=10) is None
    assert spool.in_flight == 10


@given(st.lists(st.sampled_from(["append", "take", "ack", "resend"]), max_size=60), st.randoms())
def test_nothing_is_ever_lost_from_the_account(steps, random):
    spool = Backlog(Spool.METRICS, 8)
    gapped = 0
    for step in steps:
        if step == "append":
            gap = spool.append(b"", produced_s=0.0, at_us=0)
            gapped += gap.last_seq - gap.first_seq + 1 if gap else 0
        elif step == "take":
            spool.take(random.randint(1, 4))
        elif step == "ack":
            first = random.randint(1, 20)
            spool.ack([(first, first + random.randint(0, 5))])
        else:
            spool.resend()
        assert spool.dropped == gapped
        assert spool.produced == spool.acked + spool.dropped + spool.waiting + spool.in_flight
