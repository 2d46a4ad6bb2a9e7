"""One GPU as NVML shows it: calls that fail give None, unless they say that the GPU or the driver is gone.

`api` is the pynvml module, or something in its shape. A call that is not supported is left out for REST_S, which saves
most of the cost on a GPU that supports little.
"""

from collections.abc import Sequence
from ctypes import byref
from typing import Any

from dcops.wire.rows import Reading

REST_S = 600.0

# Return codes of nvml.h, by what they mean to a reader. Whatever is in none of these is a passing failure.
_UNSUPPORTED = frozenset({2, 3, 4, 13, 22, 24, 25, 26})
_GPU_GONE = frozenset({15, 16, 28})
_DRIVER_GONE = frozenset({1, 9, 12, 18})

TIMEOUT = 10

_VALUE_OF_TYPE = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_ALL_ONES = {1: 2**32 - 1, 2: 2**64 - 1, 3: 2**64 - 1, 4: -1, 5: -1, 6: 2**16 - 1}

# A field of nvmlDeviceGetFieldValues and its scope: a link, or what the field says.
Field = tuple[int, int]


class GpuLost(Exception):
    """The driver no longer reaches this GPU."""


class DriverGone(Exception):
    """There is no driver to ask, or it is not the one that we started with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.value = code


def _raise_if_gone(error: Any) -> None:
    if error.value in _GPU_GONE:
        raise GpuLost(str(error)) from error
    if error.value in _DRIVER_GONE:
        raise DriverGone(error.value, str(error)) from error


class Device:
    """A GPU and what is remembered about it between readings.

    now_s: the time of the reading under way, monotonic, set by whoever reads.
    """

    def __init__(self, api: Any, handle: Any, uuid: str, index: int) -> None:
        self.api = api
        self.handle = handle
        self.uuid = uuid
        self.index = index
        self.now_s = 0.0
        self._resting: dict[Any, float] = {}
        self._counters: dict[str, tuple[float, float]] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """Return api.name(handle, *arguments), or None if it cannot be had. Raises GpuLost, DriverGone."""
        return self.ask((name, *arguments), name, self.handle, *arguments)

    def fill(self, name: str, structure: Any) -> Any:
        """Call api.name(handle, address of structure) and return the structure, or None. Raises as `call`."""
        # pynvml hands these on as they are: without byref the driver would get the structure itself for its address.
        answer = self.ask(name, name, self.handle, byref(structure))
        return None if answer is None else structure

    def ask(self, key: Any, name: str, *arguments: Any) -> Any:
        """As `call`, without the handle; `key` is what rests after a refusal."""
        if self._rests(key):
            return None
        try:
            return getattr(self.api, name)(*arguments)
        except self.api.NVMLError as error:
            _raise_if_gone(error)
            self._refused(key, error.value)
            return None

    def fields(self, wanted: Sequence[Field]) -> dict[Field, int | float]:
        """Read many fields in one call. What cannot be had is absent. Raises as `call`."""
        asked = [field for field in wanted if not self._rests(field)]
        if not asked:
            return {}
        values = self.ask("fields", "nvmlDeviceGetFieldValues", self.handle, asked)
        if values is None:
            return {}
        found: dict[Field, int | float] = {}
        for field, value in zip(asked, values, strict=True):
            if value.nvmlReturn:
                self._refused(field, value.nvmlReturn)
            else:
                reading = _field_value(value)
                if reading is not None:
                    found[field] = reading
        return found

    def running(self, kind: str) -> list[Any] | None:
        """Return the "Compute" or "Graphics" processes. Raises as `call`."""
        # pynvml's name without a version raises an error of another class where the driver has only the older one.
        processes: list[Any] | None = self.call(f"nvmlDeviceGet{kind}RunningProcesses_v3")
        if processes is None:
            processes = self.call(f"nvmlDeviceGet{kind}RunningProcesses_v2")
        return processes

    def rate(self, name: str, counter: Reading) -> float | None:
        """Return how fast a counter rises, a second; None at first, and when it went backwards."""
        if counter is None:
            return None
        before, self._counters[name] = self._counters.get(name), (self.now_s, counter)
        if before is None or counter < before[1] or self.now_s <= before[0]:
            return None
        return (counter - before[1]) / (self.now_s - before[0])

    def _rests(self, key: Any) -> bool:
        until = self._resting.get(key)
        return until is not None and self.now_s < until

    def _refused(self, key: Any, code: int) -> None:
        if code in _UNSUPPORTED:
            self._resting[key] = self.now_s + REST_S


def _field_value(value: Any) -> int | float | None:
    kind = value.valueType
    number: int | float = getattr(value.value, _VALUE_OF_TYPE[kind])
    return None if number == _ALL_ONES.get(kind) else number
