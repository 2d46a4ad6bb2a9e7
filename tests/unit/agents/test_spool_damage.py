"""Damage, power cuts and full disks cost only what they must, and every number is stored or a gap. Full counts: tests/soak."""

import errno
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from agents.adapters.records import pack, scan, seed_of
from tests.fakes.disk import FakeDisk
from tests.fakes.ledger import Ledger
from tests.fakes.spool_damage import (
    HOME,
    check_after,
    copied,
    crash_everywhere,
    filled,
    flip_bits,
    mangle_segments,
    open_spool,
    payload,
    segments,
    truncate_everywhere,
)
from tests.fakes.spool_machine import PLENTY, SpoolMachine


def test_a_spool_cut_off_at_any_byte_keeps_every_whole_record():
    disk = FakeDisk()
    ledger = filled(disk, 12)
    for path in segments(disk):
        truncate_everywhere(ledger, disk, path, range(len(disk.files[path].data) + 1))


def test_flipped_bits_cost_one_record_each_at_most():
    disk = FakeDisk()
    flip_bits(filled(disk, 40), disk, flips=2000, seed=1)


def test_mangled_segments_cost_what_was_in_them():
    disk = FakeDisk()
    mangle_segments(filled(disk, 60), disk, rounds=300, seed=1)


@pytest.mark.parametrize("mode", ["killed", "lost", "some"])
def test_a_power_cut_after_any_operation_loses_one_tick_at_most(mode):
    assert crash_everywhere(seed=1, steps=40, mode=mode) > 200


def test_random_histories_add_up():
    run_state_machine_as_test(
        SpoolMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", ["state.a", "state.b"])
def test_one_lost_state_file_costs_nothing(name):
    disk = FakeDisk()
    ledger = filled(disk, 40)
    del disk.files[HOME / name]
    assert check_after(ledger, disk).gaps == []


def test_a_lost_tail_costs_nothing_and_begins_a_new_spool_id():
    disk = FakeDisk()
    ledger = filled(disk, 40)
    before = open_spool(copied(disk)).metrics.spool_id
    del disk.files[HOME / "metrics" / "tail"]
    assert open_spool(copied(disk)).metrics.spool_id != before
    assert check_after(ledger, disk).gaps == []


def test_a_spool_without_its_state_still_delivers_all_its_records():
    disk = FakeDisk()
    ledger = filled(disk, 40)
    del disk.files[HOME / "state.a"], disk.files[HOME / "state.b"]
    assert check_after(ledger, disk).gaps == []


def test_an_old_spool_id_is_remembered_while_a_file_of_it_cannot_be_deleted():
    disk = FakeDisk()
    ledger = filled(disk, 30)
    del disk.files[HOME / "metrics" / "tail"]
    spool = open_spool(disk)
    disk.fail = lambda name: OSError(errno.EIO, "input/output error") if name == "remove" else None
    ledger.drain(spool)
    spool.close()
    del disk.files[segments(disk)[0]]
    disk.fail = None
    again = open_spool(disk)
    assert (again.metrics.waiting, again.events.waiting) == (0, 0)
    ledger.drain(again)
    assert ledger.gaps == []


def test_records_of_another_spool_are_not_taken_for_ones_own():
    record = pack(seed_of("a"), 5, 0, b"payload")
    assert [stored.seq for stored in scan(record, seed_of("a"))] == [5]
    assert list(scan(record, seed_of("b"))) == []


def test_scanning_finds_every_whole_record_around_rubbish():
    rng = random.Random(1)
    seed = seed_of("a")
    data, expected = b"", []
    for seq in range(300):
        data += rng.randbytes(rng.randint(0, 40)) if seq % 3 else b""
        data += pack(seed, seq, 0, rng.randbytes(rng.randint(0, 60)))
        expected.append(seq)
    assert [stored.seq for stored in scan(data, seed)] == expected


# --- the disk is full


def full_disk():
    disk, ledger = FakeDisk(), Ledger()
    spool = open_spool(disk)
    ledger.append(spool, "metrics", payload(0))
    disk.capacity -= disk.room()
    return disk, ledger, spool


def test_a_full_disk_makes_one_gap_of_what_was_not_saved_and_recovers():
    disk, ledger, spool = full_disk()
    results = [ledger.append(spool, "metrics", payload(number)) for number in range(1, 30)]
    assert results == [None] * 29
    disk.capacity = 1 << 40
    assert ledger.append(spool, "metrics", payload(30)) == 30
    ledger.drain(spool)
    ledger.check()
    assert [(gap.first_seq, gap.last_seq) for gap in ledger.gaps] == [(1, 29)]
    assert ledger.gaps[0].first_at_us == 1_000_000


def test_ticks_lost_on_a_full_disk_are_counted_even_if_the_node_then_loses_power():
    disk, ledger, spool = full_disk()
    for number in range(1, 30):
        ledger.append(spool, "metrics", payload(number))
    disk = disk.after_power_cut("lost", random.Random(0))
    disk.capacity = 1 << 40
    spool = open_spool(disk)
    ledger.drain(spool)
    ledger.check()
    assert list(ledger.gapped[spool.metrics.spool_id]) == [(1, 29)]


def test_acknowledgements_are_remembered_by_a_spool_that_was_opened_on_a_full_disk():
    disk, ledger, spool = full_disk()
    spool.close()
    spool = open_spool(disk)
    while taken := ledger.deliver(spool, "metrics"):
        spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])
    spool.close()
    for path in segments(disk):
        if path.parent.name == "metrics":
            del disk.files[path]
    disk.capacity = PLENTY
    spool = open_spool(disk)
    ledger.append(spool, "metrics", b"afterwards")
    ledger.drain(spool)
    ledger.check()


def test_a_history_of_a_full_disk_and_damage_that_once_made_a_gap_of_stored_records():
    state = SpoolMachine()
    state.append_on_a_full_disk(count=6, lane="events", room=629)
    state.damage_a_segment(seed=198)
    state.append_on_a_full_disk(count=4, lane="metrics", room=92)
    state.send_and_be_acknowledged(lane="events", records=7)
    state.send_and_be_acknowledged(lane="events", records=7)
    state.send_and_be_acknowledged(lane="metrics", records=8)
    state.damage_a_segment(seed=107)
    state.append_on_a_full_disk(count=10, lane="metrics", room=225)
    state.damage_a_segment(seed=85)
    state.send_and_be_acknowledged(lane="metrics", records=4)
    state.damage_a_segment(seed=265)
    state.teardown()


def test_records_that_make_room_for_a_gap_are_not_sent_as_well():
    disk, ledger = FakeDisk(), Ledger()
    spool = open_spool(disk, events_spares=0)
    for number in range(4):
        ledger.append(spool, "metrics", payload(number))
    (path,) = segments(disk)
    disk.files[path].data[-1] ^= 1
    spool.close()
    spool = open_spool(disk, events_spares=0)
    disk.capacity = PLENTY - disk.room()
    assert ledger.deliver(spool, "metrics") is None
    disk.capacity = PLENTY
    ledger.append(spool, "metrics", b"afterwards")
    ledger.drain(spool)
    ledger.check(damaged=True)
    assert sorted((gap.first_seq, gap.last_seq) for gap in ledger.gaps) == [(0, 2), (3, 3)]


def test_a_history_of_a_full_disk_and_damage_that_once_dropped_what_it_was_sending():
    state = SpoolMachine()
    state.append_on_a_full_disk(count=4, lane="metrics", room=282)
    state.append_on_a_full_disk(count=6, lane="events", room=567)
    state.append_on_a_full_disk(count=9, lane="metrics", room=152)
    state.send_and_be_acknowledged(lane="metrics", records=7)
    state.append_with_an_error(lane="metrics")
    state.append_on_a_full_disk(count=10, lane="metrics", room=102)
    state.append_on_a_full_disk(count=4, lane="metrics", room=0)
    state.append_on_a_full_disk(count=7, lane="metrics", room=377)
    state.damage_a_segment(seed=989)
    state.damage_a_segment(seed=895)
    state.damage_a_segment(seed=0)
    state.send_and_be_acknowledged(lane="events", records=9)
    state.send_and_be_acknowledged(lane="metrics", records=9)
    state.send_and_be_acknowledged(lane="metrics", records=8)
    state.append_on_a_full_disk(count=10, lane="events", room=323)
    state.send_and_be_acknowledged(lane="metrics", records=9)
    state.teardown()


def test_events_are_saved_on_a_full_disk_in_space_kept_for_them():
    _disk, ledger, spool = full_disk()
    for number in range(10):
        assert ledger.append(spool, "events", b"\x90" + payload(number)) is not None
    ledger.drain(spool)
    ledger.check()
    assert ledger.gaps == []


def test_events_beyond_their_own_space_push_out_the_oldest_metrics():
    disk, ledger, spool = full_disk()
    disk.capacity += 5000
    for number in range(1, 40):
        ledger.append(spool, "metrics", payload(number))
    disk.capacity -= max(0, disk.room())
    for number in range(30):
        assert ledger.append(spool, "events", b"\x90" + payload(number)) is not None
    disk.capacity = 1 << 40
    ledger.drain(spool)
    ledger.check(damaged=True)
    assert ledger.gaps


def test_acknowledged_segments_are_deleted_on_a_full_disk():
    disk, ledger = FakeDisk(), Ledger()
    spool = open_spool(disk)
    for number in range(30):
        ledger.append(spool, "metrics", payload(number))
    disk.capacity -= disk.room()
    taken = ledger.deliver(spool, "metrics", records=30)
    while taken:
        spool.acknowledge(taken[0], [(taken[1][0], taken[1][-1])])
        taken = ledger.deliver(spool, "metrics", records=30)
    assert ledger.append(spool, "metrics", payload(30)) == 30


def test_a_spool_opens_on_a_full_disk_and_works_when_there_is_room():
    disk, ledger = FakeDisk(capacity=0), Ledger()
    spool = open_spool(disk)
    assert ledger.append(spool, "metrics", payload(0)) is None
    disk.capacity = 1 << 40
    assert ledger.append(spool, "metrics", payload(1)) == 1
    spool = open_spool(disk.after_power_cut("lost", random.Random(0)))
    ledger.drain(spool)
    ledger.check()


# --- the bound


def test_over_its_limit_a_spool_drops_the_oldest_metrics_as_gaps_and_no_events():
    disk, ledger = FakeDisk(), Ledger()
    spool = open_spool(disk, metrics_limit_bytes=3000)
    for number in range(300):
        ledger.append(spool, "metrics", payload(number))
        if number % 10 == 0:
            ledger.append(spool, "events", b"\x90" + payload(number))
        assert spool.metrics.size_bytes <= 3000
    ledger.drain(spool)
    ledger.check(damaged=True)
    metrics = {gap.spool_id for gap in ledger.gaps}
    assert metrics == {spool.metrics.spool_id}
    assert {gap.reason for gap in ledger.gaps} == {"the spool reached its limit"}
    kept = [seq for spool_id, seq in ledger.delivered if spool_id in metrics]
    assert min(kept) > max(gap.last_seq for gap in ledger.gaps)


def test_a_read_error_that_may_pass_is_raised_and_loses_nothing():
    disk = FakeDisk()
    ledger = filled(disk, 20)
    spool = open_spool(disk)
    read = disk.read

    def refuse(path):
        raise OSError(errno.EMFILE, "too many open files")

    disk.read = refuse
    with pytest.raises(OSError, match="too many"):
        spool.metrics.newest({}, 10, 1000)
    disk.read = read
    ledger.drain(spool)
    ledger.check()
    assert ledger.gaps == []


def test_an_oversized_record_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="262144"):
        open_spool(FakeDisk()).metrics.append(bytes(262_145))
