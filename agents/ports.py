"""What the agent's logic needs from the outside: narrow protocols, and the values that cross them.

Everything here runs in one asyncio loop, one thread: no port needs a lock. A call that is not `async` must return
within milliseconds. Missing readings are None, never 0. GPUs are named by UUID, in the order of the driver's indexes.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from dcops.wire.frames import (
    Event,
    Finding,
    GpuIdentity,
    GpuProcess,
    HostIdentity,
    Inventory,
    NodeState,
)
from dcops.wire.rows import Reading


class Driver(msgspec.Struct, array_like=True, frozen=True):
    """Versions of the NVIDIA driver, of the newest CUDA that it can run, and of NVML. Empty is unknown."""

    driver_version: str = ""
    cuda_version: str = ""
    nvml_version: str = ""


class Want(msgspec.Struct, array_like=True, frozen=True):
    """What to read from the GPUs now."""

    sample: bool = False
    health: bool = False
    processes: bool = False
    inventory: bool = False


class GpuReport(msgspec.Struct, array_like=True, frozen=True):
    """What the GPUs answered.

    uuids: the GPUs that answer, in the driver's order; [] with `problem` set if there is no driver to ask.
    lost: UUID -> why, of those that the driver lists but no longer reaches.
    sample, health: UUID -> readings in the order of GPU_SAMPLE.metrics / GPU_HEALTH.metrics.
    at_us: when the readings were taken, microseconds since 1970.
    identities: filled when asked for, and unasked after the set of GPUs or the driver changed.
    findings: what the GPUs do not give; filled by a reading of everything.
    """

    at_us: int
    uuids: list[str]
    sample: dict[str, list[Reading]] = {}
    health: dict[str, list[Reading]] = {}
    processes: list[GpuProcess] | None = None
    identities: list[GpuIdentity] | None = None
    driver: Driver = Driver()
    events: list[Event] = []
    problem: Finding | None = None
    lost: dict[str, str] = {}
    findings: list[Finding] = []


class GpuSource(Protocol):
    """The GPUs of this machine, however the driver behaves."""

    async def read(self, want: Want) -> GpuReport:
        """Read what is wanted. Never raises and never takes longer than its deadline; see GpuReport.problem."""

    def drain_events(self) -> list[Event]:
        """Return the events seen since the last call, and forget them."""

    async def close(self) -> None:
        """Let go of the driver."""


class HostSource(Protocol):
    """The machine around the GPUs."""

    def sample(self) -> list[Reading]:
        """Readings in the order of NODE_SAMPLE.metrics; rates cover the time since the last call."""

    def identity(self, driver: Driver) -> HostIdentity:
        """What the machine is."""

    def findings(self) -> list[Finding]:
        """What can and cannot be read here, and why."""


class EventSource(Protocol):
    """Something that reports happenings, such as the kernel log."""

    def drain_events(self) -> list[Event]:
        """Return what has happened since the last call. Never blocks."""

    def close(self) -> None:
        """Let go of the source."""


class Journal(Protocol):
    """A durable spool: what is appended survives a crash until the server has acknowledged it."""

    def append(self, payload: bytes) -> int | None:
        """Write one record and return its number, or None if there is no room (the loss is recorded as a gap)."""


class GpuLists(Protocol):
    """The durable numbers by which spooled rows name their GPUs (wire.frames.GpuList)."""

    def number(self, uuids: Sequence[str]) -> int:
        """Return the number of this list of GPUs, in this order; a new list gets a new number, durable at return."""


class Link(Protocol):
    """The connection to the server. Sends what the journals hold, and the newest inventory and state."""

    async def run(self) -> None:
        """Stay connected until cancelled. Raises only what a restart cannot mend (a revoked or unreadable identity)."""

    def wake(self) -> None:
        """Something was appended to a journal."""

    def set_inventory(self, inventory: Inventory) -> None:
        """Send this inventory now, and again after each reconnection."""

    def set_state(self, state: NodeState) -> None:
        """Send this state now, and again after each reconnection."""

    @property
    def intervals_s(self) -> Mapping[str, float]:
        """Seconds between samples that the server wishes for, by table name; {} if it has none."""
