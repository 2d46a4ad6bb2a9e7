"""The agent at work: at each tick read, pack, write to the journal, tell the link. Talks to ports only."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agents import sampler
from agents.events import Ledger, short_bus_id
from agents.ports import (
    Driver,
    EventSource,
    GpuLists,
    GpuReport,
    GpuSource,
    HostSource,
    Journal,
    Link,
)
from dcops.domain.metrics import NODE_SAMPLE
from dcops.wire.frames import (
    Finding,
    GpuIdentity,
    GpuProcess,
    HostIdentity,
    Inventory,
    NodeState,
    encode_happenings,
)
from dcops.wire.rows import Reading

log = logging.getLogger(__name__)

# The GPUs have this share of the shortest interval to answer before the tick goes on without them.
_GPU_SHARE = 0.5
_PROCESSES_MAX = 1000
_EVENTS_A_RECORD = 200


@dataclass
class Latest:
    """The newest of everything, for /metrics and `once`."""

    host: list[Reading] = field(default_factory=list)
    host_at_us: int = 0
    gpus: GpuReport | None = None
    health: dict[str, list[Reading]] = field(default_factory=dict)
    identities: list[GpuIdentity] = field(default_factory=list)
    host_identity: HostIdentity | None = None
    last_xid: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ports:
    """What the agent works with."""

    gpus: GpuSource
    host: HostSource
    metrics: Journal
    events: Journal
    gpu_lists: GpuLists
    link: Link
    kernel_log: EventSource | None = None
    findings: Callable[[], list[Finding]] = list


class Agent:
    """Samples until cancelled."""

    def __init__(
        self,
        ports: Ports,
        plan: sampler.Plan,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        after_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`after_tick` is called after each tick, for the watchdog."""
        self._ports = ports
        self._plan = plan
        self._clock = clock
        self._now_us = now_us
        self._after_tick = after_tick
        self._ledger = Ledger()
        self._asked: asyncio.Task[GpuReport] | None = None
        self._owed: set[str] = set()
        self._driver = Driver()
        self._gpu_findings: list[Finding] = []
        self._problem: Finding | None = None
        self._processes: list[GpuProcess] = []
        self._missed = 0
        self.latest = Latest()

    async def run(self) -> None:
        """Tick on the plan's schedule until cancelled; then let go of everything."""
        try:
            self._send_inventory()
            while True:
                await asyncio.sleep(max(0.0, self._plan.next_s - self._clock()))
                await self.tick()
                self._plan.adopt(self._ports.link.intervals_s, self._clock())
                self._after_tick()
        finally:
            await self._close()

    async def tick(self) -> None:
        """Do what is due. Ends before the next tick even if the GPUs do not answer; their answer is taken when it comes."""
        due = self._plan.take(self._clock())
        payload = self._host_section() if NODE_SAMPLE.name in due else b""
        payload += await self._gpu_sections(due)
        if payload:
            self._ports.metrics.append(payload)
        self._take_events()
        self._log_missed()
        if sampler.STATE in due and self._asked is not None:
            self._send_state()
        self._ports.link.wake()

    # -- metrics

    def _host_section(self) -> bytes:
        readings, at_us = self._ports.host.sample(), self._now_us()
        self.latest.host, self.latest.host_at_us = readings, at_us
        return sampler.node_section(readings, at_us)

    async def _gpu_sections(self, due: frozenset[str]) -> bytes:
        # What is slow to come round is asked for later if it cannot be now.
        self._owed |= due - {NODE_SAMPLE.name}
        if self._asked is None:
            if not self._owed:
                return b""
            want = sampler.wanted(self._owed, inventory=False)
            self._owed = set()
            self._asked = asyncio.ensure_future(self._ports.gpus.read(want))
        await asyncio.wait([self._asked], timeout=self._patience_s())
        if not self._asked.done():
            return b""
        report, self._asked = self._asked.result(), None
        return self._take_report(report)

    def _patience_s(self) -> float:
        return max(0.0, (self._plan.next_s - self._clock()) * _GPU_SHARE)

    def _take_report(self, report: GpuReport) -> bytes:
        self.latest.gpus = report
        self.latest.health |= report.health
        if report.identities is not None:
            self.latest.identities = report.identities
            self._driver = report.driver
            self._send_inventory()
        self._gpu_findings = report.findings or self._gpu_findings
        if report.processes is not None or report.problem != self._problem:
            self._problem = report.problem
            self._processes = (report.processes or [])[:_PROCESSES_MAX]
            self._send_state()
        if not report.sample and not report.health:
            return b""
        return sampler.gpu_sections(report, self._ports.gpu_lists.number(report.uuids))

    # -- events

    def _take_events(self) -> None:
        kernel_log = self._ports.kernel_log
        seen = self._ports.gpus.drain_events()
        if kernel_log is not None:
            seen += kernel_log.drain_events()
        news = self._ledger.admit(seen, self._uuid_by_bus_id()) + self._ledger.close(
            self._now_us()
        )
        for event in news:
            log.warning("%s: %s", event.kind, event.message)
            if event.kind == "xid" and event.gpu_uuid and event.code is not None:
                self.latest.last_xid[event.gpu_uuid] = event.code
        for start in range(0, len(news), _EVENTS_A_RECORD):
            batch = news[start : start + _EVENTS_A_RECORD]
            self._ports.events.append(encode_happenings(list(batch)))

    def _log_missed(self) -> None:
        missed = sum(self._plan.missed.values())
        if missed > self._missed:
            log.info("%d ticks were missed: the machine was too busy", missed - self._missed)
            self._missed = missed

    def _uuid_by_bus_id(self) -> dict[str, str]:
        return {short_bus_id(gpu.pci_bus_id): gpu.uuid for gpu in self.latest.identities}

    # -- inventory and state

    def _send_inventory(self) -> None:
        self.latest.host_identity = self._ports.host.identity(self._driver)
        self._ports.link.set_inventory(
            Inventory(self.latest.host_identity, self.latest.identities)
        )

    def _send_state(self) -> None:
        findings = [] if self._problem is None else [self._problem]
        findings += self._gpu_findings + self._ports.host.findings() + self._ports.findings()
        self._ports.link.set_state(NodeState(self._now_us(), self._processes, findings))

    async def _close(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
        self._take_events()
        if self._ports.kernel_log is not None:
            self._ports.kernel_log.close()
        await self._ports.gpus.close()
