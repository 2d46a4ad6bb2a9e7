"""The spool at work: what is appended is delivered once, newest first, and forgotten when acknowledged."""

from tests.fakes.disk import FakeDisk
from tests.fakes.ledger import Ledger
from tests.fakes.spool_damage import open_spool, payload


def filled(disk, count, **options):
    ledger, spool = Ledger(), open_spool(disk, **options)
    for number in range(count):
        ledger.append(spool, "metrics", payload(number))
    return ledger, spool


def test_what_was_appended_is_delivered_and_then_forgotten():
    disk = FakeDisk()
    ledger, spool = filled(disk, 30)
    ledger.append(spool, "events", b"\x90event")
    ledger.drain(spool)
    ledger.check()
    assert ledger.gaps == []
    assert spool.metrics.newest({}, 10, 1000) is None
    spool.close()
    again = open_spool(disk)
    assert (again.metrics.waiting, again.events.waiting) == (0, 0)
    assert not [path for path in disk.files if path.suffix == ".seg"]


def test_newest_records_come_first_in_ascending_batches():
    ledger, spool = filled(FakeDisk(), 30)
    seqs = []
    while taken := ledger.deliver(spool, "metrics", records=7):
        spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])
        seqs.append(taken[1])
    assert seqs[0][-1] == 29
    assert all(batch == sorted(batch) for batch in seqs)
    assert [batch[-1] for batch in seqs] == sorted((batch[-1] for batch in seqs), reverse=True)
    ledger.check()


def test_a_restart_sends_again_what_was_not_acknowledged():
    disk = FakeDisk()
    ledger, spool = filled(disk, 30)
    ledger.deliver(spool, "metrics")
    again = open_spool(disk)
    assert again.metrics.spool_id == spool.metrics.spool_id
    assert again.metrics.append(payload(30)) == 30
    ledger.produced[again.metrics.spool_id, 30] = payload(30)
    ledger.drain(again)
    ledger.check()
    assert ledger.gaps == []


def test_a_wiped_spool_never_reuses_a_number():
    first, second = open_spool(FakeDisk()), open_spool(FakeDisk())
    assert first.metrics.spool_id != second.metrics.spool_id
