"""The agent at work, with ports that answer from a script and a clock that is turned by hand."""

import asyncio

import pytest

from agents.daemon import Agent, Ports
from agents.events import xid_event
from agents.ports import Driver, GpuReport
from agents.sampler import Plan
from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE, TABLE_BY_CODE, TABLES
from dcops.wire import rows
from dcops.wire.frames import (
    Finding,
    GpuIdentity,
    GpuProcess,
    HostIdentity,
    decode_happenings,
)

ROW_BYTES = {table.code: rows.ROW[table.name].size for table in TABLES}
ROW = [None] * len(GPU_SAMPLE.metrics)
IDENTITY = GpuIdentity("GPU-a", 0, "H100", pci_bus_id="00000000:9B:00.0")
GOOD = GpuReport(5, ["GPU-a"], sample={"GPU-a": ROW})


class Gpus:
    def __init__(self):
        self.wants, self.events, self.closed = [], [], False
        self.answer, self.gate = GOOD, asyncio.Event()
        self.gate.set()

    async def read(self, want):
        self.wants.append(want)
        await self.gate.wait()
        return self.answer

    def drain_events(self):
        events, self.events = self.events, []
        return events

    async def close(self):
        self.closed = True


class Host:
    def sample(self):
        return [None] * len(NODE_SAMPLE.metrics)

    def identity(self, driver):
        return HostIdentity("host", driver_version=driver.driver_version)

    def findings(self):
        return [Finding("disks", "ok", "vda")]


class Journal(list):
    def append(self, payload):
        super().append(payload)
        return len(self) - 1


class Link:
    def __init__(self):
        self.inventories, self.states, self.wakes, self.intervals_s = [], [], 0, {}

    def wake(self):
        self.wakes += 1

    def set_inventory(self, inventory):
        self.inventories.append(inventory)

    def set_state(self, state):
        self.states.append(state)

    async def run(self):
        return None


class Lists:
    def number(self, uuids):
        return 100 + len(uuids)


class Bench:
    """An agent and what it was given."""

    def __init__(self, **intervals_s):
        self.now = 0.0
        self.gpus, self.link, self.metrics, self.events = Gpus(), Link(), Journal(), Journal()
        ports = Ports(self.gpus, Host(), self.metrics, self.events, Lists(), self.link)
        self.plan = Plan(intervals_s, 0.0)
        self.agent = Agent(
            ports, self.plan, clock=lambda: self.now, now_us=lambda: int(self.now * 1e6)
        )

    async def tick(self, at_s):
        self.now = at_s
        await self.agent.tick()

    def tables(self):
        return [
            [TABLE_BY_CODE[s.table_code].name for s in rows.split_sections(payload, ROW_BYTES)]
            for payload in self.metrics
        ]

    def happenings(self):
        return [happening for payload in self.events for happening in decode_happenings(payload)]


@pytest.fixture
def bench():
    return Bench(gpu_sample=0.02, node_sample=0.02, gpu_health=0.3, state=1.2)


async def test_one_tick_is_one_record_of_all_that_was_due(bench):
    await bench.tick(0)
    assert bench.tables() == [["node_sample", "gpu_sample"]]
    assert bench.link.wakes == 1
    (want,) = bench.gpus.wants
    assert (want.sample, want.health, want.processes) == (True, True, True)


async def test_gpus_that_do_not_answer_hold_up_no_host_sample_and_are_not_asked_twice(bench):
    bench.gpus.gate.clear()
    for tick in range(4):
        await bench.tick(tick * 0.02)
    assert bench.tables() == [["node_sample"]] * 4
    assert len(bench.gpus.wants) == 1
    bench.gpus.gate.set()
    await bench.tick(0.08)
    assert bench.tables()[-1] == ["node_sample", "gpu_sample"]


async def test_what_fell_due_meanwhile_is_asked_for_afterwards(bench):
    await bench.tick(0)
    bench.gpus.gate.clear()
    await bench.tick(0.02)
    await bench.tick(0.3)
    bench.gpus.gate.set()
    await bench.tick(0.32)
    await bench.tick(0.34)
    assert bench.gpus.wants[-1].health


async def test_without_gpus_there_are_only_host_rows_and_the_reason_is_told_once(bench):
    problem = Finding("GPUs", "missing", "no driver")
    bench.gpus.answer = GpuReport(5, [], problem=problem)
    for tick in range(3):
        await bench.tick(tick * 0.02)
    assert bench.tables() == [["node_sample"]] * 3
    assert len(bench.link.states) == 1
    assert bench.link.states[0].findings[0] == problem


async def test_a_new_inventory_is_sent_when_identities_come(bench):
    bench.gpus.answer = GpuReport(5, ["GPU-a"], identities=[IDENTITY], driver=Driver("580.1"))
    await bench.tick(0)
    inventory = bench.link.inventories[-1]
    assert inventory.gpus == [IDENTITY]
    assert inventory.host.driver_version == "580.1"


async def test_processes_stay_when_a_later_list_is_not_there_yet(bench):
    process = GpuProcess("GPU-a", 1, "python")
    bench.gpus.answer = GpuReport(5, ["GPU-a"], sample={"GPU-a": ROW}, processes=[process])
    await bench.tick(0)
    bench.gpus.gate.clear()
    await bench.tick(0.02)
    await bench.tick(1.2)
    assert [state.processes for state in bench.link.states] == [[process], [process]]


async def test_an_xid_of_both_sources_is_written_once_with_its_gpu(bench):
    bench.gpus.answer = GpuReport(5, ["GPU-a"], identities=[IDENTITY])
    await bench.tick(0)
    seen = [
        xid_event(10, "0000:9b:00", 79, gpu_uuid="", source="kmsg"),
        xid_event(20, "00000000:9B:00.0", 79, gpu_uuid="GPU-a", source="nvml"),
    ]
    bench.gpus.events = list(seen)
    await bench.tick(0.02)
    (event,) = bench.happenings()
    assert (event.code, event.gpu_uuid) == (79, "GPU-a")
    assert bench.agent.latest.last_xid == {"GPU-a": 79}


async def test_a_flood_of_events_is_cut_into_records(bench):
    bench.gpus.events = [
        xid_event(n, "0000:9b:00", n, gpu_uuid="GPU-a", source="nvml") for n in range(500)
    ]
    await bench.tick(0)
    assert [len(decode_happenings(payload)) for payload in bench.events] == [200, 200, 100]


async def test_the_servers_wish_is_followed_from_the_next_tick(bench):
    bench.link.intervals_s = {"gpu_sample": 3600.0}
    running = asyncio.create_task(bench.agent.run())
    async with asyncio.timeout(10):
        while len(bench.metrics) < 1:
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.gpus.closed
    bench.now = 0.5
    assert "gpu_sample" in bench.plan.take(0.5)
    bench.now = 100.0
    assert "gpu_sample" not in bench.plan.take(100.0)
