"""XIDs and other happenings that the driver reports through an NVML event set, awaited in a thread of their own."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from agents.adapters.nvml_device import TIMEOUT, Device
from agents.events import xid_event
from dcops.domain.metrics import RECOVERY_ACTIONS
from dcops.wire.frames import Event, Severity

# A wait ends after this, so that the thread sees that it should stop.
WAIT_MS = 1000

# nvmlEventType*
_XID = 0x8
_RECOVERY_ACTION = 0x8000
_KINDS: dict[int, tuple[str, Severity, str]] = {
    0x2: ("ecc", Severity.CRITICAL, "uncorrectable ECC error"),
    0x200: ("ecc", Severity.WARNING, "storm of single bit ECC errors"),
    0x400: ("ecc", Severity.INFO, "memory retirement recorded"),
    0x800: ("ecc", Severity.CRITICAL, "memory retirement failed"),
    0x1000: ("ecc", Severity.WARNING, "poisoned memory was contained"),
    0x2000: ("ecc", Severity.CRITICAL, "poisoned memory was used"),
    0x4000: ("gpu_lost", Severity.CRITICAL, "the driver says that the GPU is not available"),
}
WANTED = _XID | _RECOVERY_ACTION | sum(_KINDS)


class Watcher:
    """Waits for events of some GPUs until stopped, or until the driver fails."""

    def __init__(
        self, api: Any, devices: Sequence[tuple[Device, str]], emit: Callable[[Event], None]
    ) -> None:
        """`devices` with their PCI bus ids; `emit` is called from the thread."""
        self._api = api
        self._bus_ids = {device.uuid: bus_id for device, bus_id in devices}
        self._emit = emit
        self._stop = threading.Event()
        self._set: Any = None
        self._thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
        self.refusals: dict[str, str] = {}
        self._register([device for device, _ in devices])

    @property
    def alive(self) -> bool:
        """Whether events are being waited for."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop waiting. The event set is left to a thread that the driver keeps."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * WAIT_MS / 1000)

    def _register(self, devices: Sequence[Device]) -> None:
        try:
            self._set = self._api.nvmlEventSetCreate()
        except self._api.NVMLError as error:
            self.refusals = {device.uuid: str(error) for device in devices}
            return
        for device in devices:
            try:
                supported = self._api.nvmlDeviceGetSupportedEventTypes(device.handle)
                self._api.nvmlDeviceRegisterEvents(device.handle, supported & WANTED, self._set)
            except self._api.NVMLError as error:
                self.refusals[device.uuid] = str(error)
        if len(self.refusals) < len(devices):
            self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wait()
        except self._api.NVMLError:
            # The GPU or the driver is gone: the readings say so, and a new watcher comes with the new session.
            return
        finally:
            self._free()

    def _wait(self) -> None:
        try:
            data = self._api.nvmlEventSetWait_v2(self._set, WAIT_MS)
        except self._api.NVMLError as error:
            if error.value != TIMEOUT:
                raise
        else:
            event = self._event(data)
            if event is not None:
                self._emit(event)

    def _free(self) -> None:
        try:
            self._api.nvmlEventSetFree(self._set)
        except self._api.NVMLError:
            return

    def _event(self, data: Any) -> Event | None:
        uuid = self._uuid(data.device)
        where = self._bus_ids.get(uuid, "")
        kind, number = data.eventType, data.eventData
        now = time.time_ns() // 1000
        if kind == _XID:
            return xid_event(now, where, number, gpu_uuid=uuid, source="nvml")
        if kind == _RECOVERY_ACTION:
            action = RECOVERY_ACTIONS[number] if number < len(RECOVERY_ACTIONS) else str(number)
            return _plain(
                now, "recovery", Severity.WARNING, f"the driver asks for: {action}", uuid, number
            )
        if kind in _KINDS:
            name, severity, message = _KINDS[kind]
            return _plain(now, name, severity, message, uuid, None)
        return None

    def _uuid(self, handle: Any) -> str:
        try:
            return str(self._api.nvmlDeviceGetUUID(handle))
        except self._api.NVMLError:
            return ""


def _plain(
    at_us: int, kind: str, severity: Severity, message: str, uuid: str, code: int | None
) -> Event:
    key = f"{kind}:{uuid}:{message}"
    return Event(at_us, kind, severity, message, key, code, uuid, "nvml")
