"""The running hall: steps the physics in real time, keeps a connection per node, and counts what it made and what arrived."""

import asyncio
import math
import struct
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.sim.backlog import Backlog, Held
from agents.sim.enrol import HallState
from agents.sim.link import LinkError, Server, SimulatedLink, connect
from agents.sim.physics import Block, Happened
from agents.sim.plan import SimulatedNode, inventory
from agents.sim.records import Packer
from dcops.domain.metrics import GPU_HEALTH
from dcops.wire.frames import Event, RefusalCode, Severity, Spool, encode_happenings

NODES_PER_BLOCK = 50
CONNECTS_AT_ONCE = 32
XIDS_PER_HOUR = 20.0
SILENCE_EVERY_S = 180.0
MEMORY_BYTES = 1 << 30
RECORD_BYTES_ABOUT = 2600  # a record of 8 GPUs and what Python keeps beside it
JOURNAL_HEAD = struct.Struct(
    "<IB32sQI"
)  # node, 0 metrics or 1 events, spool id, seq, bytes of payload
FINAL = frozenset({RefusalCode.REVOKED, RefusalCode.IDENTITY, RefusalCode.PROTOCOL})


@dataclass(frozen=True, slots=True)
class Options:
    """How the hall runs. `silence_every_s` is the mean time between two nodes going silent; 0 for never."""

    gpus: int = 8
    rate_hz: float = 1.0
    seed: int = 1
    xids_per_hour: float = XIDS_PER_HOUR
    silence_every_s: float = SILENCE_EVERY_S
    silence_s: tuple[float, float] = (45.0, 150.0)
    journal: Path | None = None
    memory_bytes: int = MEMORY_BYTES
    retry_s: tuple[float, float] = (0.5, 15.0)


class Latencies:
    """A histogram of waiting times with buckets 2 % apart, from 0.1 ms: exact enough, and two of them can be subtracted."""

    FIRST_S, STEP, BUCKETS = 1e-4, 1.02, 1000

    def __init__(self, counts: list[int] | None = None) -> None:
        self.counts = counts or [0] * self.BUCKETS

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = int(math.log(max(seconds, self.FIRST_S) / self.FIRST_S) / math.log(self.STEP))
        self.counts[min(bucket, self.BUCKETS - 1)] += 1

    def since(self, earlier: "Latencies") -> "Latencies":
        """What was counted after `earlier` was taken."""
        return Latencies([a - b for a, b in zip(self.counts, earlier.counts, strict=True)])

    def percentile_s(self, percent: float) -> float | None:
        """The upper bound of the bucket that holds this percentile; None if nothing was counted."""
        total, seen = sum(self.counts), 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= total * percent / 100:
                return float(self.FIRST_S * self.STEP ** (bucket + 1))
        return None


class Tally:
    """Exact counts, and how long acknowledgements took."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.energy_mj = 0
        self.latencies = Latencies()
        self.reconnects = 0
        self.reasons: Counter[str] = Counter()

    def acknowledged(self, done: list[Held]) -> None:
        """Note how long each record waited from its sample to its acknowledgement."""
        now = time.monotonic()
        for held in done:
            self.latencies.add(now - held.produced_s)

    def made(self, packer: Packer, with_health: int) -> None:
        """Count the rows of a tick without lost GPUs, and add up their energy counters: a checksum SQL can compute too."""
        energy = packer.gpu_rows["energy_mj"]
        nodes, gpus = energy.shape
        self.energy_mj += int(energy.sum())
        self.rows.update(gpu_sample=nodes * gpus, node_sample=nodes, gpu_health=with_health * gpus)


class Hall:
    """N simulated nodes that have joined."""

    def __init__(
        self, plan: list[SimulatedNode], state: HallState, server: Server, options: Options
    ) -> None:
        self._plan = plan
        self._server = server
        self._options = options
        self._random = np.random.default_rng((options.seed, 3))
        self._connecting = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._silent: set[int] = set()
        self._producing = True
        self._journal: BinaryIO | None = options.journal.open("ab") if options.journal else None
        self.tally = Tally()
        limit = max(options.memory_bytes // RECORD_BYTES_ABOUT // max(len(plan), 1), 60)
        self.links = [self._link(node, state, limit) for node in plan]

    def _link(self, node: SimulatedNode, state: HallState, limit: int) -> SimulatedLink:
        enrolled = state.nodes[node.name]
        return SimulatedLink(
            node_id=enrolled.node_id,
            key=Ed25519PrivateKey.from_private_bytes(enrolled.private_key),
            boot_id=str(uuid.uuid4()),
            inventory=inventory(node),
            metrics=Backlog(Spool.METRICS, limit),
            events=Backlog(Spool.EVENTS, None),
            on_ack=self.tally.acknowledged,
        )

    async def run(
        self, stop: asyncio.Event, *, duration_s: float | None = None, drain_s: float = 5.0
    ) -> None:
        """Produce and send until `stop` is set or the duration is over, then wait up to drain_s for the acknowledgements."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._keep_connected(i)) for i in range(len(self.links))]
            running += [
                tasks.create_task(self._produce(first))
                for first in range(0, len(self._plan), self._block_size())
            ]
            if self._options.silence_every_s:
                running.append(tasks.create_task(self._silence()))
            await _wait(stop, duration_s)
            self._producing = False
            self._silent.clear()
            await self._drain(drain_s)
            for task in running:
                task.cancel()
        self._close()

    def _close(self) -> None:
        for link in self.links:
            if link.connection is not None:
                link.connection.leave()
        if self._journal is not None:
            self._journal.close()

    async def _drain(self, drain_s: float) -> None:
        end = time.monotonic() + drain_s
        while time.monotonic() < end and any(link.unacknowledged for link in self.links):
            await asyncio.sleep(0.05)

    # -- producing

    def _block_size(self) -> int:
        """Nodes stepped together: enough blocks to spread the hall over the second."""
        return min(NODES_PER_BLOCK, max(4, -(-len(self._plan) // 10)))

    async def _produce(self, first: int) -> None:
        """Step one block at its own phase of the second, for as long as the hall produces."""
        options, plan = self._options, self._plan[first : first + self._block_size()]
        block = Block(
            [node.model for node in plan],
            [node.place for node in plan],
            options.gpus,
            seed=(options.seed, 2, first),
            xids_per_gpu_hour=options.xids_per_hour / max(len(self._plan) * options.gpus, 1),
        )
        packer = Packer(block, np.array([node.has_infiniband for node in plan]))
        period = 1.0 / options.rate_hz
        every = max(round(GPU_HEALTH.every_s / period), 1)
        order = np.arange(len(plan))
        due = time.monotonic() + period * first / max(len(self._plan), 1)
        last = due - period
        tick = 0
        while self._producing:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            now = time.monotonic()
            at_us = time.time_ns() // 1000
            happened = block.step(now - last, at_us / 1e6)
            last = now
            with_health = (order + tick) % every == 0
            self._keep(first, packer.pack(at_us, with_health), at_us, now)
            self.tally.made(packer, int(with_health.sum()))
            self._report(first, happened, at_us, now)
            tick += 1
            due += period * max(
                1, int((time.monotonic() - due) / period) + 1
            )  # a late tick is skipped, never doubled

    def _keep(self, first: int, records: list[bytes], at_us: int, now: float) -> None:
        for offset, payload in enumerate(records):
            link = self.links[first + offset]
            self._append(first + offset, link.metrics, payload, at_us, now)
            link.send()

    def _append(self, index: int, spool: Backlog, payload: bytes, at_us: int, now: float) -> None:
        gap = spool.append(payload, produced_s=now, at_us=at_us)
        self._note(index, spool, payload)
        if gap is not None:
            self._append(index, self.links[index].events, encode_happenings([gap]), at_us, now)

    def _note(self, index: int, spool: Backlog, payload: bytes) -> None:
        """Write what was made into the journal, for an oracle to compare with what was stored."""
        if self._journal is not None:
            kind = 0 if spool.spool is Spool.METRICS else 1
            head = JOURNAL_HEAD.pack(
                index, kind, spool.spool_id.encode(), spool.produced, len(payload)
            )
            self._journal.write(head + payload)

    def _report(self, first: int, happened: list[Happened], at_us: int, now: float) -> None:
        for what in happened:
            index = first + what.node
            node = self._plan[index]
            event = Event(
                at_us=at_us,
                kind="xid",
                severity=Severity(what.xid.severity),
                message=f"NVRM: Xid ({_bus_id(index, self.links, what.gpu)}): {what.xid.code}, {what.xid.message}",
                key=f"xid:{what.xid.code}:{node.gpu_uuids[what.gpu]}:{at_us}",
                code=what.xid.code,
                gpu_uuid=node.gpu_uuids[what.gpu],
                source="simulated",
            )
            self._append(index, self.links[index].events, encode_happenings([event]), at_us, now)
            self.links[index].send()

    # -- connections

    async def _keep_connected(self, index: int) -> None:
        """Connect, stay, and connect again with growing, jittered pauses, until the server says never."""
        link, (shortest, longest) = self.links[index], self._options.retry_s
        pause = shortest
        while True:
            await self._while_silent(index)
            started = time.monotonic()
            reason, retry_after_s, final = await self._connect_once(link)
            self.tally.reconnects += 1
            self.tally.reasons[reason] += 1
            if final:
                return
            pause = shortest if time.monotonic() - started > 10 else min(pause * 2, longest)
            await asyncio.sleep(max(retry_after_s, self._random.uniform(pause / 2, pause)))

    async def _connect_once(self, link: SimulatedLink) -> tuple[str, float, bool]:
        """One connection from start to end: why it ended, seconds to wait, and whether to give up."""
        try:
            async with self._connecting:
                connection = await connect(link, self._server)
        except (OSError, LinkError) as error:
            return type(error).__name__, 0.0, False
        reason = await connection.closed
        final = connection.fatal is not None and connection.fatal.code in FINAL
        return reason, connection.retry_after_s, final

    async def _while_silent(self, index: int) -> None:
        while index in self._silent:
            await asyncio.sleep(0.5)

    async def _silence(self) -> None:
        """Now and then a node loses its network for a while; it goes on measuring and returns with a backlog."""
        while True:
            await asyncio.sleep(float(self._random.exponential(self._options.silence_every_s)))
            index = int(self._random.integers(len(self.links)))
            self._silent.add(index)
            if (connection := self.links[index].connection) is not None:
                connection.close("the node went silent")
            asyncio.get_running_loop().call_later(
                self._random.uniform(*self._options.silence_s), self._silent.discard, index
            )

    # -- accounts

    def summary(self) -> dict[str, Any]:
        """Exact counts and latencies so far."""
        spools = list(self._spools())
        return {
            "nodes": len(self.links),
            "connected": sum(link.connected for link in self.links),
            "silent": len(self._silent),
            "produced": sum(s.produced for s in spools),
            "acked": sum(s.acked for s in spools),
            "dropped": sum(s.dropped for s in spools),
            "unacknowledged": sum(s.waiting + s.in_flight for s in spools),
            "metrics_produced": sum(link.metrics.produced for link in self.links),
            "metrics_acked": sum(link.metrics.acked for link in self.links),
            "events_produced": sum(link.events.produced for link in self.links),
            "reconnects": self.tally.reconnects,
            "reasons": dict(self.tally.reasons.most_common(10)),
            "refused": _sum(link.refused for link in self.links),
            "ack_p50_s": self.tally.latencies.percentile_s(50),
            "ack_p99_s": self.tally.latencies.percentile_s(99),
            "latencies": self.tally.latencies.counts,
            "rows": dict(self.tally.rows),
            "energy_mj": self.tally.energy_mj,
            "cpu_s": time.process_time(),
            "monotonic_s": time.monotonic(),
        }

    def _spools(self) -> Iterator[Backlog]:
        for link in self.links:
            yield link.metrics
            yield link.events


def _bus_id(index: int, links: list[SimulatedLink], gpu: int) -> str:
    return f"PCI:{links[index].inventory.gpus[gpu].pci_bus_id}"


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


async def _wait(stop: asyncio.Event, seconds: float | None) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
