"""The collector against a driver that hangs, dies, mismatches or loses a GPU, in a real child process.

Every wait has a deadline; what must elapse is only the collector's own deadline for a hung driver.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agents.collector import ABANDONED_MAX, BACKOFF_S, NO_DRIVER_RETRY_S, Collector
from agents.ports import Want
from dcops.wire.frames import Severity

CHILD = Path(__file__).resolve().parents[2] / "fakes" / "collector_child.py"
HANG_S = 0.3
SAMPLE = Want(sample=True)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Make collectors of a scenario; all are closed at the end."""
    made = []

    def build(scenario, **options):
        command = [sys.executable, str(CHILD), scenario, str(tmp_path)]
        deadline_s = HANG_S if "hang" in scenario else 30.0
        collector = Collector(deadline_s, command, clock, **({"first_deadline_s": 60.0} | options))
        made.append(collector)
        return collector

    yield build
    for collector in made:
        asyncio.run(collector.close())


def kinds(events):
    return [(event.kind, event.severity) for event in events]


async def test_it_reads_through_the_child(make):
    report = await make("steady").read(SAMPLE)
    assert len(report.uuids) == 2
    assert set(report.sample) == set(report.uuids)
    assert report.problem is None
    assert report.identities is not None


async def test_a_hung_driver_is_given_up_said_once_and_replaced(make, clock):
    collector = make("hang")
    assert (await collector.read(SAMPLE)).problem is None
    report = await collector.read(SAMPLE)
    assert report.uuids == []
    assert "NVML hung" in report.problem.message
    assert kinds(collector.drain_events()) == [("collector", Severity.CRITICAL)]

    assert (await collector.read(SAMPLE)).problem is not None, "still backing off"
    assert collector.drain_events() == []

    clock.now += BACKOFF_S
    assert len((await collector.read(SAMPLE)).sample) == 2
    assert kinds(collector.drain_events()) == [("collector", Severity.INFO)]


async def test_children_that_cannot_be_killed_are_left_and_do_not_pile_up(make, clock):
    left = []
    collector = make("always-hangs", first_deadline_s=HANG_S, kill=left.append)
    for _ in range(ABANDONED_MAX + 3):
        await collector.read(SAMPLE)
        clock.now += 1000
    assert len(left) == ABANDONED_MAX
    for process in left:
        process.kill()
        process.wait(10)
    await collector.read(SAMPLE)
    assert len(left) == ABANDONED_MAX + 1, "room again once they are gone"
    left[-1].kill()
    left[-1].wait(10)


async def test_a_child_that_dies_is_replaced(make, clock):
    collector = make("crash")
    await collector.read(SAMPLE)
    report = await collector.read(SAMPLE)
    assert "ended unexpectedly" in report.problem.message
    assert kinds(collector.drain_events()) == [("collector", Severity.WARNING)]
    clock.now += BACKOFF_S
    assert len((await collector.read(SAMPLE)).sample) == 2


async def test_without_a_driver_no_child_stays_and_it_is_no_event(make, clock):
    collector = make("gone")
    report = await collector.read(SAMPLE)
    assert report.problem.status == "missing"
    assert collector.drain_events() == []
    assert collector._child is None
    clock.now += NO_DRIVER_RETRY_S - 1
    await collector.read(SAMPLE)
    assert collector._child is None


async def test_a_driver_that_changed_version_is_met_by_a_new_process(make, clock):
    collector = make("mismatch")
    report = await collector.read(SAMPLE)
    assert "differ in version" in report.problem.message
    assert kinds(collector.drain_events()) == [("driver", Severity.CRITICAL)]
    clock.now += BACKOFF_S
    assert len((await collector.read(SAMPLE)).uuids) == 2


async def test_a_lost_gpu_is_an_event_once(make):
    collector = make("lose")
    first = await collector.read(SAMPLE)
    for _ in range(3):
        report = await collector.read(SAMPLE)
    assert report.uuids == first.uuids[1:]
    events = collector.drain_events()
    assert kinds(events) == [("gpu_lost", Severity.CRITICAL)]
    assert events[0].gpu_uuid == first.uuids[0]


async def test_what_a_library_prints_does_not_disturb(make):
    assert len((await make("prints").read(SAMPLE)).uuids) == 2


async def test_xids_of_the_event_set_come_with_the_readings(make):
    collector = make("xid")
    seen = []
    async with asyncio.timeout(30):
        while len(seen) < 5:
            await collector.read(SAMPLE)
            seen += collector.drain_events()
    assert {(event.kind, event.code, event.key) for event in seen} == {
        ("xid", 79, "xid:0000:1b:00:79")
    }
    assert all(event.gpu_uuid for event in seen)


async def test_the_child_leaves_when_the_collector_closes(make):
    collector = make("steady")
    await collector.read(SAMPLE)
    process = collector._child.process
    await collector.close()
    assert process.poll() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
