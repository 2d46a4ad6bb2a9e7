"""The spool's promises: durable before sent, always starts, damage costs only what is damaged, every loss is a gap."""

import random
from pathlib import Path

import pytest

from agents.adapters.spool import Spool
from tests.fakes.disk import FakeDisk, PowerCut
from tests.fakes.ledger import Ledger

HOME = Path("/spool")
SMALL = {"metrics_segment_bytes": 600, "events_segment_bytes": 600, "events_spares": 2}


def open_spool(disk, **options):
    return Spool(HOME, disk=disk, now_us=lambda: 1_000_000, **(SMALL | options))


def payload(number):
    return f"record {number} ".encode() * 6


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


def scenario(disk, ledger):
    """Every kind of operation once or more: rotation, events, acks, the limit, restart."""
    spool = open_spool(disk, metrics_limit_bytes=2400)
    for number in range(26):
        ledger.append(spool, "metrics", payload(number))
        if number % 9 == 4:
            ledger.append(spool, "events", b"\x90" + payload(number))
        if number % 8 == 7 and (taken := ledger.deliver(spool, "metrics", records=5)):
            spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])
        if number == 16:
            spool.close()
            spool = open_spool(disk, metrics_limit_bytes=2400)
    while taken := ledger.deliver(spool, "events", records=3):
        spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])
    spool.close()


def crash_and_recover(cut_at, mode, seed):
    rng = random.Random(seed)
    disk, ledger = FakeDisk(), Ledger()
    disk.cut_at = cut_at
    with pytest.raises(PowerCut):
        scenario(disk, ledger)
    spool = open_spool(disk.after_power_cut(mode, rng), metrics_limit_bytes=2400)
    ledger.append(spool, "metrics", b"after the cut")
    ledger.append(spool, "events", b"\x90after the cut")
    ledger.drain(spool)
    ledger.check(damaged=True, may_overlap=True)
    lost = [gap for gap in ledger.gaps if "limit" not in gap.reason]
    assert sum(gap.last_seq - gap.first_seq + 1 for gap in lost) <= 1, lost


def operations_of_scenario():
    disk, ledger = FakeDisk(), Ledger()
    scenario(disk, ledger)
    return disk.operations


@pytest.mark.parametrize("mode", ["killed", "lost", "some"])
def test_power_cut_after_every_operation_loses_at_most_the_tick_being_written(mode):
    for cut_at in range(1, operations_of_scenario() + 1):
        crash_and_recover(cut_at, mode, seed=cut_at)
