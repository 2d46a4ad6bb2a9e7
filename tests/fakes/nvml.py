"""A scripted NVML in the shape of the pynvml module, with the failures that real drivers show. For tests and benchmarks.

    api = ScriptedNvml(gpus=8)
    api.refuse("nvmlDeviceGetFanSpeed", NOT_SUPPORTED)      # one call, on every GPU
    api.gpus[2].lost = True                                 # fell off the bus
    api.emit(0, XID, 79)                                    # into the event set

Constants, structures and error classes are pynvml's own, so what is scripted is only what a driver would answer.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.adapters.nvml import load

NOT_SUPPORTED = 3
NOT_FOUND = 6
UNINITIALIZED = 1
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
INVALID_ARGUMENT = 2

XID = 0x8

UINT = 1
ULL = 3


@dataclass
class ScriptedGpu:
    """One GPU: what it answers, by call; `fields` by (field, scope). Units are NVML's own."""

    index: int
    uuid: str
    bus_id: str
    lost: bool = False
    answers: dict[str, Any] = field(default_factory=dict)
    fields: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    gpm: dict[int, float] = field(default_factory=dict)
    links: int = 18


class ScriptedNvml:
    """The functions of pynvml that the agent calls, answered from a script."""

    def __init__(self, gpus: int = 1) -> None:
        self._real = load()
        self.gpus = [hopper(index) for index in range(gpus)]
        self.refusals: dict[str, int] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.calls: list[str] = []
        self.record_calls = False
        # A driver waits for events as long as it is told; a test would wait with it.
        self.longest_wait_s = 0.01
        self.sessions = 0
        self._open = False
        self._happenings: queue.SimpleQueue[Any] = queue.SimpleQueue()

    # -- the script

    def refuse(self, name: str, code: int) -> None:
        """Make a call fail on every GPU."""
        self.refusals[name] = code

    def hang(self, name: str, until: threading.Event) -> None:
        """Make a call wait until the event is set."""
        self.before[name] = lambda: void(until.wait())

    def emit(self, index: int, kind: int, data: int = 0) -> None:
        """Put an event into the event set."""
        self._happenings.put((self.gpus[index], kind, data))

    def reload(self, gpus: Sequence[ScriptedGpu] | None = None) -> None:
        """Unload and load the driver: open handles are worth nothing, and indexes may have changed."""
        self._open = False
        if gpus is not None:
            self.gpus = list(gpus)
            for index, gpu in enumerate(self.gpus):
                gpu.index = index
        self._happenings.put(None)

    # -- pynvml

    def __getattr__(self, name: str) -> Any:
        """Constants, structures and errors are pynvml's; a function that is not scripted is missing from the driver."""
        real = getattr(self._real, name)
        if callable(real) and name.startswith("nvml"):
            return lambda *arguments: self._answer(name, *arguments)
        return real

    def nvmlInit(self) -> None:
        """Open a session."""
        self._enter("nvmlInit")
        self._open = True
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        """End the session."""
        self._enter("nvmlShutdown")
        self._open = False

    def nvmlDeviceGetCount(self) -> int:
        """The number of GPUs."""
        self._enter("nvmlDeviceGetCount", needs_session=True)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> ScriptedGpu:
        """The GPU itself is its handle."""
        self._enter("nvmlDeviceGetHandleByIndex", needs_session=True)
        return self._reached(self.gpus[index])

    def nvmlDeviceGetUUID(self, handle: ScriptedGpu) -> str:
        """The UUID."""
        self._enter("nvmlDeviceGetUUID", needs_session=True)
        return self._reached(handle).uuid

    def nvmlDeviceGetFieldValues(self, handle: ScriptedGpu, wanted: Sequence[Any]) -> Any:
        """Field by field: what the GPU does not have is NotSupported."""
        self._enter("nvmlDeviceGetFieldValues", needs_session=True)
        self._reached(handle)
        values = (self._real.c_nvmlFieldValue_t * len(wanted))()
        for value, (number, scope) in zip(values, wanted, strict=True):
            value.fieldId, value.scopeId = number, scope
            found = handle.fields.get((number, scope))
            if found is None:
                value.nvmlReturn = NOT_SUPPORTED
            else:
                value.valueType = found[0]
                value.value.ullVal = found[1]
        return values

    def nvmlDeviceGetMemoryInfo(self, handle: ScriptedGpu, version: int | None = None) -> Any:
        """Version 2 also has the reserved part."""
        name = "nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo"
        return self._answer(name, handle)

    def nvmlDeviceGetNvLinkState(self, handle: ScriptedGpu, link: int) -> int:
        """Every link that there is, is up."""
        self._enter("nvmlDeviceGetNvLinkState", needs_session=True)
        if link >= self._reached(handle).links:
            raise self._error(INVALID_ARGUMENT)
        return 1

    def nvmlGpmQueryDeviceSupport(self, handle: ScriptedGpu) -> Any:
        """Only a GPU with scripted activity."""
        self._enter("nvmlGpmQueryDeviceSupport", needs_session=True)
        support = self._real.c_nvmlGpmSupport_t()
        support.isSupportedDevice = bool(self._reached(handle).gpm)
        return support

    def nvmlGpmSampleAlloc(self) -> Any:
        """An empty sample."""
        self._enter("nvmlGpmSampleAlloc", needs_session=True)
        return self._real.c_nvmlGpmSample_t()

    def nvmlGpmSampleGet(self, handle: ScriptedGpu, sample: Any) -> Any:
        """Remember whose sample it is."""
        self._enter("nvmlGpmSampleGet", needs_session=True)
        self._sampled = self._reached(handle)
        return sample

    def nvmlGpmMetricsGet(self, request: Any) -> Any:
        """Activity of the GPU that was sampled last."""
        self._enter("nvmlGpmMetricsGet", needs_session=True)
        for position in range(request.numMetrics):
            metric = request.metrics[position]
            value = self._sampled.gpm.get(metric.metricId)
            metric.nvmlReturn = NOT_SUPPORTED if value is None else 0
            metric.value = value or 0.0
        return request

    def nvmlEventSetCreate(self) -> Any:
        """There is one event set."""
        self._enter("nvmlEventSetCreate", needs_session=True)
        return object()

    def nvmlDeviceRegisterEvents(self, handle: ScriptedGpu, _kinds: int, _set: Any) -> None:
        """Every kind is reported."""
        self._enter("nvmlDeviceRegisterEvents", needs_session=True)
        self._reached(handle)

    def nvmlDeviceGetSupportedEventTypes(self, handle: ScriptedGpu) -> int:
        """All of them."""
        self._enter("nvmlDeviceGetSupportedEventTypes", needs_session=True)
        self._reached(handle)
        return 0xFFFF

    def nvmlEventSetWait_v2(self, _set: Any, timeout_ms: int) -> Any:
        """The next event, or TIMEOUT; UNINITIALIZED once the driver is gone."""
        self._enter("nvmlEventSetWait_v2", needs_session=True)
        try:
            happening = self._happenings.get(timeout=min(timeout_ms / 1000, self.longest_wait_s))
        except queue.Empty:
            raise self._error(TIMEOUT) from None
        if happening is None:
            raise self._error(UNINITIALIZED)
        gpu, kind, data = happening
        return _EventData(gpu, kind, data)

    def nvmlEventSetFree(self, _set: Any) -> None:
        """Nothing to free."""
        self._enter("nvmlEventSetFree")

    # -- inside

    def _answer(self, name: str, *arguments: Any) -> Any:
        self._enter(name, needs_session=True)
        gpu = arguments[0] if arguments else None
        if not isinstance(gpu, ScriptedGpu):
            return self._value(SYSTEM, name, arguments)
        return self._value(self._reached(gpu).answers, name, arguments[1:])

    def _value(self, answers: dict[str, Any], name: str, arguments: tuple[Any, ...]) -> Any:
        if name not in answers:
            raise self._error(FUNCTION_NOT_FOUND)
        answer = answers[name]
        if callable(answer):
            answer = answer(*arguments)
        if isinstance(answer, NvmlFailure):
            raise self._error(answer.code)
        return answer

    def _enter(self, name: str, *, needs_session: bool = False) -> None:
        if self.record_calls:
            self.calls.append(name)
        if name in self.before:
            self.before[name]()
        if name in self.refusals:
            raise self._error(self.refusals[name])
        if needs_session and not self._open:
            raise self._error(UNINITIALIZED)

    def _reached(self, gpu: ScriptedGpu) -> ScriptedGpu:
        if gpu.lost or gpu not in self.gpus:
            raise self._error(GPU_IS_LOST)
        return gpu

    def _error(self, code: int) -> Exception:
        error: Exception = self._real.NVMLError(code)
        return error


@dataclass(frozen=True)
class NvmlFailure:
    """An answer that is an NVML error of this code."""

    code: int


@dataclass(frozen=True)
class _EventData:
    device: ScriptedGpu
    eventType: int
    eventData: int


class Answer:
    """A structure of answers, by NVML's names."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


SYSTEM: dict[str, Any] = {
    "nvmlSystemGetDriverVersion": "580.65.06",
    "nvmlSystemGetCudaDriverVersion": 13000,
    "nvmlSystemGetNVMLVersion": "13.580.65.06",
}


def void(_value: object) -> None:
    """Drop a value."""


def filled(**values: Any) -> Callable[[Any], int]:
    """Answer by filling in the structure whose address (ctypes.byref) is given."""

    def fill(reference: Any) -> int:
        for name, value in values.items():
            setattr(reference._obj, name, value)
        return 0

    return fill


def by(*answers: Any) -> Callable[[int], Any]:
    """Answer by the call's first argument; past the end INVALID_ARGUMENT would come, here the last one."""
    return lambda position: answers[min(position, len(answers) - 1)]


def hopper(index: int) -> ScriptedGpu:
    """An H100 at work, with answers in NVML's units."""
    gpu = ScriptedGpu(
        index=index,
        uuid=f"GPU-{index:08x}-0000-4000-8000-000000000000",
        bus_id=f"00000000:{0x1B + 0x10 * index:02X}:00.0",
    )
    gpu.answers = {
        "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetSerial": f"16530{index:08d}",
        "nvmlDeviceGetVbiosVersion": "96.00.74.00.01",
        "nvmlDeviceGetArchitecture": 9,
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetPciInfo": Answer(busId=gpu.bus_id),
        "nvmlDeviceGetUtilizationRates": Answer(gpu=97, memory=41),
        "nvmlDeviceGetMemoryInfo_v2": Answer(
            total=85_520_809_984, used=70_000_000_000, free=14_900_000_000, reserved=620_809_984
        ),
        "nvmlDeviceGetMemoryInfo": Answer(
            total=85_520_809_984, used=70_620_809_984, free=14_900_000_000
        ),
        "nvmlDeviceGetPowerUsage": 612_345,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetPowerManagementLimitConstraints": [200_000, 700_000],
        "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
        "nvmlDeviceGetTotalEnergyConsumption": 123_456_789_012,
        "nvmlDeviceGetTemperature": lambda _sensor: 54,
        "nvmlDeviceGetMarginTemperature": 33,
        "nvmlDeviceGetTemperatureThreshold": by(92, 89, 95),
        "nvmlDeviceGetClockInfo": by(1980, 1980, 2619),
        "nvmlDeviceGetMaxClockInfo": by(1980, 1980, 2619),
        "nvmlDeviceGetPerformanceState": 0,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
        "nvmlDeviceGetFanSpeed": NvmlFailure(NOT_SUPPORTED),
        "nvmlDeviceGetEncoderUtilization": [0, 100_000],
        "nvmlDeviceGetDecoderUtilization": [0, 100_000],
        "nvmlDeviceGetViolationStatus": lambda policy: Answer(
            referenceTime=0, violationTime=1_000_000 * (policy + 1)
        ),
        "nvmlDeviceGetComputeRunningProcesses_v3": lambda: [
            Answer(pid=1, usedGpuMemory=69_000_000_000)
        ],
        "nvmlDeviceGetGraphicsRunningProcesses_v3": list,
        "nvmlDeviceGetCurrPcieLinkGeneration": 5,
        "nvmlDeviceGetCurrPcieLinkWidth": 16,
        "nvmlDeviceGetMaxPcieLinkGeneration": 5,
        "nvmlDeviceGetMaxPcieLinkWidth": 16,
        "nvmlDeviceGetEccMode": [1, 1],
        "nvmlDeviceGetPersistenceMode": 1,
        "nvmlDeviceGetMigMode": [0, 0],
        "nvmlDeviceGetMaxMigDeviceCount": 0,
        "nvmlDeviceGetBoardPartNumber": "692-2G520-0200-000",
        "nvmlDeviceGetInforomImageVersion": "G520.0200.00.05",
        "nvmlDeviceGetNumGpuCores": 16_896,
        "nvmlDeviceGetSramEccErrorStatus": filled(bThresholdExceeded=0),
        "nvmlDeviceGetGpuFabricInfoV": filled(state=3, healthMask=0),
    }
    gpu.fields = {
        (3, 0): (ULL, 7),
        (4, 0): (ULL, 0),
        (5, 0): (ULL, 12),
        (6, 0): (ULL, 1),
        (82, 0): (UINT, 61),
        (83, 0): (ULL, 123_456_789_012),
        (91, 0): (UINT, 18),
        (94, 0): (UINT, 2),
        (142, 0): (UINT, 1),
        (143, 0): (UINT, 0),
        (144, 0): (UINT, 0),
        (145, 0): (UINT, 0),
        (185, 0): (UINT, 612_345),
        (186, 0): (UINT, 645_210),
        (230, 0): (UINT, 0),
    }
    gpu.fields |= {(number, link): (ULL, 1) for number in (161, 162, 163) for link in range(18)}
    gpu.gpm = {1: 98.5, 2: 91.25, 3: 40.0, 5: 62.5, 10: 55.0, 11: 0.0, 12: 3.5, 13: 1.0}
    gpu.gpm |= {20: 512.0, 21: 256.0, 60: 90_000.0, 61: 80_000.0}
    return gpu
