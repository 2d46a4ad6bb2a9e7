"""What a GPU is, who uses it, and what driver it has: read at start and after a change."""

import os
import pwd
from collections.abc import Iterator
from functools import cache
from typing import Any

from agents.adapters.nvml_device import Device
from agents.ports import Driver
from dcops.wire.frames import GpuIdentity, GpuProcess

_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
_PROCESSES_MAX = 1000


def read_driver(api: Any) -> Driver:
    """Versions of the driver. Raises NVMLError only if the driver is gone."""
    return Driver(
        driver_version=_text(_try(api, "nvmlSystemGetDriverVersion")),
        cuda_version=_cuda_version(_try(api, "nvmlSystemGetCudaDriverVersion")),
        nvml_version=_text(_try(api, "nvmlSystemGetNVMLVersion")),
    )


def read_identity(device: Device) -> GpuIdentity:
    """What does not change while the driver is loaded. Raises GpuLost, DriverGone."""
    call = device.call
    limits = call("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    memory = call("nvmlDeviceGetMemoryInfo")
    return GpuIdentity(
        uuid=device.uuid,
        index=device.index,
        model=_text(call("nvmlDeviceGetName")),
        serial=_text(call("nvmlDeviceGetSerial")),
        pci_bus_id=pci_bus_id(device),
        vbios=_text(call("nvmlDeviceGetVbiosVersion")),
        architecture=_ARCHITECTURES.get(call("nvmlDeviceGetArchitecture"), ""),
        compute_capability=".".join(map(str, call("nvmlDeviceGetCudaComputeCapability") or ())),
        memory_total_bytes=None if memory is None else memory.total,
        power_limit_min_w=_watts(limits[0]),
        power_limit_max_w=_watts(limits[1]),
        power_limit_default_w=_watts(call("nvmlDeviceGetPowerManagementDefaultLimit")),
        temperature_shutdown_c=call("nvmlDeviceGetTemperatureThreshold", 0),
        temperature_slowdown_c=call("nvmlDeviceGetTemperatureThreshold", 1),
        temperature_memory_max_c=call("nvmlDeviceGetTemperatureThreshold", 2),
        sm_clock_max_mhz=call("nvmlDeviceGetMaxClockInfo", 1),
        memory_clock_max_mhz=call("nvmlDeviceGetMaxClockInfo", 2),
        pcie_link_generation_max=call("nvmlDeviceGetMaxPcieLinkGeneration"),
        pcie_link_width_max=call("nvmlDeviceGetMaxPcieLinkWidth"),
        ecc_enabled=_switch(_current(call("nvmlDeviceGetEccMode"))),
        persistence_mode=_switch(call("nvmlDeviceGetPersistenceMode")),
        mig_mode=_switch(_current(call("nvmlDeviceGetMigMode"))),
        mig_devices=list(_mig_devices(device)),
        details=_details(device),
    )


def pci_bus_id(device: Device) -> str:
    """The GPU's place on the bus as NVML writes it (00000000:9B:00.0), "" if unknown. Raises GpuLost, DriverGone."""
    pci = device.call("nvmlDeviceGetPciInfo")
    return "" if pci is None else _text(pci.busId)


def read_processes(device: Device) -> list[GpuProcess]:
    """Processes that hold memory on the GPU. Raises GpuLost, DriverGone."""
    found: dict[int, GpuProcess] = {}
    for kind in ("Graphics", "Compute"):
        for process in (device.running(kind) or ())[:_PROCESSES_MAX]:
            found[process.pid] = _process(device, kind.lower(), process)
    return list(found.values())


def _process(device: Device, kind: str, process: Any) -> GpuProcess:
    used = process.usedGpuMemory
    return GpuProcess(
        gpu_uuid=device.uuid,
        pid=process.pid,
        name=_process_name(device, process.pid),
        user=_process_user(process.pid),
        memory_used_bytes=None if used is None or used >= 2**63 else used,
        kind=kind,
    )


def _process_name(device: Device, pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        # Outside this PID namespace; the driver may still know.
        name = device.ask("process name", "nvmlSystemGetProcessName", pid)
        return os.path.basename(_text(name).split(" ")[0])


def _process_user(pid: int) -> str:
    try:
        return _user_name(os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return ""


@cache
def _user_name(uid: int) -> str:
    # Cached, because the answer may come over the network.
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _mig_devices(device: Device) -> Iterator[str]:
    for index in range(device.call("nvmlDeviceGetMaxMigDeviceCount") or 0):
        handle = device.call("nvmlDeviceGetMigDeviceHandleByIndex", index)
        if handle is not None:
            uuid = device.ask("MIG UUID", "nvmlDeviceGetUUID", handle)
            if uuid is not None:
                yield _text(uuid)


def _details(device: Device) -> dict[str, str]:
    call = device.call
    details = {
        "part_number": _text(call("nvmlDeviceGetBoardPartNumber")),
        "inforom": _text(call("nvmlDeviceGetInforomImageVersion")),
        "cores": _text(call("nvmlDeviceGetNumGpuCores")),
        "numa_node": _text(call("nvmlDeviceGetNumaNodeId")),
        "module_id": _text(call("nvmlDeviceGetModuleId")),
    }
    platform = device.fill("nvmlDeviceGetPlatformInfo", device.api.c_nvmlPlatformInfo_v2_t())
    if platform is not None:
        details["chassis_serial"] = _text(platform.chassisSerialNumber)
        details["slot"] = str(ord(platform.slotNumber))
        details["tray"] = str(ord(platform.trayIndex))
    return {name: value for name, value in details.items() if value}


def _try(api: Any, name: str) -> Any:
    try:
        return getattr(api, name)()
    except api.NVMLError:
        return None


def _cuda_version(number: int | None) -> str:
    return "" if not number else f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _current(pair: Any) -> int | None:
    return None if pair is None else int(pair[0])


def _switch(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
