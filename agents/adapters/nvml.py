"""The one door to NVML: a session with the driver, made anew when the driver or a GPU goes away.

Runs in the collector's child process, because a call may hang for ever. Calls are made from one thread; a second one
waits for events.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.adapters.nvml_device import Device, DriverGone, GpuLost
from agents.adapters.nvml_events import Watcher
from agents.adapters.nvml_identity import pci_bus_id, read_driver, read_identity, read_processes
from agents.adapters.nvml_readings import Activity, read_health, read_sample
from agents.ports import Driver, GpuReport, Want
from agents.readings import clean
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE
from dcops.wire.frames import Event, Finding, GpuIdentity, GpuProcess
from dcops.wire.rows import Reading

log = logging.getLogger(__name__)

# A session is made anew this long after a GPU was lost (it may come back after a reset), later each time.
RETRY_LOST_S = 30.0
RETRY_LOST_MAX_S = 600.0
EVENTS_MAX = 10_000


def load() -> Any:
    """Return the pynvml module. Imported only here: it is large, and only the collector's child needs it."""
    import pynvml

    return pynvml


class Nvml:
    """Every GPU of this machine. `read` does not raise, but may hang as the driver does."""

    def __init__(self, api: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = load() if api is None else api
        self._clock = clock
        self._session: _Session | None = None
        self._known: dict[str, None] = {}
        self._retry_at = 0.0
        self._retry_after_s = RETRY_LOST_S
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def read(self, want: Want) -> GpuReport:
        """Read what is wanted, in one pass over the GPUs."""
        try:
            return self._read(want)
        except (DriverGone, self._api.NVMLError) as error:
            self.close()
            status, sentence = _explain(error)
            return GpuReport(at_us=_now_us(), uuids=[], problem=Finding("GPUs", status, sentence))

    def drain_events(self) -> list[Event]:
        """Return the events seen since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End the session. Leaving without this can kill checkpointed processes."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _read(self, want: Want) -> GpuReport:
        now = self._clock()
        fresh = self._session is None
        if self._session is None:
            self._session = _Session(self._api, self._emit)
        session = self._session
        session.renew_watcher(now)
        report = _Reading(session, want, now).report(inventory=want.inventory or fresh)
        self._known |= dict.fromkeys(device.uuid for device in session.devices)
        for uuid in self._known.keys() - set(report.uuids):
            report.lost.setdefault(uuid, "the driver no longer lists it")
        self._look_again(now, lost=bool(report.lost))
        return report

    def _look_again(self, now_s: float, *, lost: bool) -> None:
        """A GPU that was lost may come back after a reset, but only a new session sees it."""
        if not lost:
            self._retry_after_s = RETRY_LOST_S
            self._retry_at = 0.0
        elif not self._retry_at:
            self._retry_at = now_s + self._retry_after_s
        elif now_s >= self._retry_at:
            self._retry_after_s = min(2 * self._retry_after_s, RETRY_LOST_MAX_S)
            self._retry_at = now_s + self._retry_after_s
            self.close()

    def _emit(self, event: Event) -> None:
        with self._lock:
            if len(self._events) < EVENTS_MAX:
                self._events.append(event)


class _Session:
    """From nvmlInit to nvmlShutdown: handles are good only within one."""

    def __init__(self, api: Any, emit: Callable[[Event], None]) -> None:
        self._api = api
        self._emit = emit
        self._watcher: Watcher | None = None
        self._watch_at = 0.0
        self.lost: dict[str, str] = {}
        self.readings = 0
        self.devices: list[Device] = []
        api.nvmlInit()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self.driver: Driver = read_driver(self._api)
        for index in range(self._api.nvmlDeviceGetCount()):
            try:
                handle = self._api.nvmlDeviceGetHandleByIndex(index)
                uuid = str(self._api.nvmlDeviceGetUUID(handle))
            except self._api.NVMLError as error:
                # A GPU that fell off the bus keeps its index and has no name any more.
                log.warning("GPU %d gives no handle: %s", index, error)
                continue
            self.devices.append(Device(self._api, handle, uuid, index))
        self.activity = {device.uuid: Activity(device) for device in self.devices}

    def renew_watcher(self, now_s: float) -> None:
        """Start to wait for events; again every minute if the wait ended by itself."""
        if self._watcher is not None and self._watcher.alive:
            return
        if now_s < self._watch_at:
            return
        self._watch_at = now_s + 60.0
        devices = [device for device in self.devices if device.uuid not in self.lost]
        located: list[tuple[Device, str]] = []
        for device in devices:
            try:
                located.append((device, pci_bus_id(device)))
            except GpuLost:
                continue
        if located:
            self._watcher = Watcher(self._api, located, self._emit)

    def findings(
        self, sample: Mapping[str, list[Reading]], health: Mapping[str, list[Reading]]
    ) -> list[Finding]:
        """What each GPU and its driver do not give."""
        refusals = self._watcher.refusals if self._watcher is not None else {}
        return [
            _finding(
                device, sample[device.uuid], health[device.uuid], refusals.get(device.uuid, "")
            )
            for device in self.devices
            if device.uuid in sample and device.uuid in health
        ]

    def close(self) -> None:
        """Stop the watcher, then leave NVML: it must not be left with a wait in flight."""
        if self._watcher is not None:
            self._watcher.stop()
        try:
            self._api.nvmlShutdown()
        except self._api.NVMLError as error:
            log.debug("nvmlShutdown: %s", error)


class _Reading:
    """One pass over the GPUs."""

    def __init__(self, session: _Session, want: Want, now_s: float) -> None:
        self._session = session
        self._want = want
        self._now_s = now_s
        self._sample: dict[str, list[Reading]] = {}
        self._health: dict[str, list[Reading]] = {}
        self._processes: list[GpuProcess] = []
        self._identities: list[GpuIdentity] = []

    def report(self, *, inventory: bool) -> GpuReport:
        session, at_us = self._session, _now_us()
        session.readings += 1
        for device in session.devices:
            if device.uuid not in session.lost:
                self._read_device(device, inventory=inventory)
        return GpuReport(
            at_us=at_us,
            uuids=[device.uuid for device in session.devices if device.uuid not in session.lost],
            sample=self._sample,
            health=self._health,
            processes=self._processes if self._want.processes else None,
            identities=self._identities if inventory else None,
            driver=session.driver,
            lost=dict(session.lost),
            findings=self._findings(),
        )

    def _findings(self) -> list[Finding]:
        """Only from a full reading, and not from the first: a rate needs two."""
        full = self._want.sample and self._want.health and self._want.processes
        if not full or self._session.readings < 2:
            return []
        return self._session.findings(self._sample, self._health)

    def _read_device(self, device: Device, *, inventory: bool) -> None:
        device.now_s = self._now_s
        want = self._want
        try:
            if want.sample:
                sample = read_sample(device, self._session.activity[device.uuid], slow=want.health)
                self._sample[device.uuid] = clean(GPU_SAMPLE, sample)
            if want.health:
                self._health[device.uuid] = clean(GPU_HEALTH, read_health(device))
            if want.processes:
                self._processes += read_processes(device)
            if inventory:
                self._identities.append(read_identity(device))
        except GpuLost as error:
            self._sample.pop(device.uuid, None)
            self._session.lost[device.uuid] = str(error)


def _finding(
    device: Device, sample: Sequence[Reading], health: Sequence[Reading], no_events: str
) -> Finding:
    absent = [
        name
        for name, reading in zip(
            GPU_SAMPLE.names + GPU_HEALTH.names, [*sample, *health], strict=True
        )
        if reading is None
    ]
    parts = [f"not given by this GPU or its driver: {', '.join(absent)}"] if absent else []
    if no_events:
        parts.append(f"XIDs come only from the kernel log: {no_events}")
    return Finding(f"GPU {device.index}", "ok", "; ".join(parts) or "Everything can be read.")


_SENTENCES = {
    12: (
        "missing",
        "No NVIDIA driver library (libnvidia-ml.so.1) on this machine: host metrics only.",
    ),
    9: ("failed", "The NVIDIA kernel driver is not loaded. Load it with `modprobe nvidia`."),
    18: (
        "failed",
        "The NVIDIA library and kernel driver differ in version. Reload the driver, or reboot.",
    ),
    4: ("denied", "The NVIDIA driver refuses this user. Give it access to /dev/nvidia*."),
}


def _explain(error: Any) -> tuple[str, str]:
    """Return the status, and a sentence on why there is no driver to ask."""
    return _SENTENCES.get(error.value, ("failed", f"The NVIDIA driver does not work: {error}."))


def _now_us() -> int:
    return time.time_ns() // 1000
