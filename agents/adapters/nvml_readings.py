"""From one NVML device to named readings: gpu_sample each second, gpu_health slowly. Units as in the metric registry."""

from typing import Any

from agents.adapters.nvml_device import Device, Field
from dcops.wire.rows import Reading

Readings = dict[str, Reading]

_MIB = 1 << 20
_KIB = 1 << 10

# Fields of nvmlDeviceGetFieldValues: (NVML_FI_DEV_*, scope).
_ALL_LINKS = 2**32 - 1
MEMORY_TEMP: Field = (82, 0)
TOTAL_ENERGY: Field = (83, 0)
POWER_AVERAGE: Field = (185, 0)
POWER_INSTANT: Field = (186, 0)
PCIE_TX_BYTES: Field = (197, 0)
PCIE_RX_BYTES: Field = (198, 0)
NVLINK_DATA_TX: Field = (138, _ALL_LINKS)
NVLINK_DATA_RX: Field = (139, _ALL_LINKS)

_LEVELS = (POWER_AVERAGE, POWER_INSTANT, TOTAL_ENERGY, MEMORY_TEMP)
_TRAFFIC = (PCIE_TX_BYTES, PCIE_RX_BYTES, NVLINK_DATA_TX, NVLINK_DATA_RX)

_HEALTH: dict[Field, str] = {
    (3, 0): "ecc_corrected_volatile",
    (4, 0): "ecc_uncorrected_volatile",
    (5, 0): "ecc_corrected_aggregate",
    (6, 0): "ecc_uncorrected_aggregate",
    (29, 0): "retired_pages_single_bit",
    (30, 0): "retired_pages_double_bit",
    (31, 0): "retired_pages_pending",
    (38, 0): "nvlink_crc_errors",
    (52, 0): "nvlink_replay_errors",
    (59, 0): "nvlink_recovery_errors",
    (94, 0): "pcie_replays",
    (142, 0): "rows_remapped_correctable",
    (143, 0): "rows_remapped_uncorrectable",
    (144, 0): "row_remap_pending",
    (145, 0): "row_remap_failure",
    (173, 0): "pcie_correctable_errors",
    (230, 0): "recovery_action",
}
NVLINK_COUNT: Field = (91, 0)

# Counters that Hopper and later keep for each link; a total above wins. NVML_FI_DEV_NVLINK_ERROR_DL_* and _COUNT_*.
_LINK_COUNTERS: dict[int, str] = {
    163: "nvlink_crc_errors",
    161: "nvlink_replay_errors",
    162: "nvlink_recovery_errors",
    208: "nvlink_receive_errors",
    211: "nvlink_integrity_errors",
    214: "nvlink_recovery_failures",
    215: "nvlink_recovery_errors",
}
_MAX_LINKS = 36

# NVML_PERF_POLICY_*
_VIOLATIONS = {
    0: "throttle_power_ns",
    1: "throttle_thermal_ns",
    2: "throttle_sync_boost_ns",
    3: "throttle_board_ns",
    4: "throttle_low_utilization_ns",
    5: "throttle_reliability_ns",
}

# NVML_GPM_METRIC_* -> (metric, what turns NVML's unit into ours)
_ACTIVITY: dict[int, tuple[str, float]] = {
    1: ("graphics_active_ratio", 0.01),
    2: ("sm_active_ratio", 0.01),
    3: ("sm_occupancy_ratio", 0.01),
    5: ("tensor_active_ratio", 0.01),
    10: ("dram_active_ratio", 0.01),
    11: ("fp64_active_ratio", 0.01),
    12: ("fp32_active_ratio", 0.01),
    13: ("fp16_active_ratio", 0.01),
    20: ("pcie_tx_bytes_per_s", _MIB),
    21: ("pcie_rx_bytes_per_s", _MIB),
    60: ("nvlink_rx_bytes_per_s", _MIB),
    61: ("nvlink_tx_bytes_per_s", _MIB),
}


class Activity:
    """GPM: what the parts of a Hopper or later GPU did between two readings."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._request: Any = None
        self._samples: list[Any] = []
        self._primed = False

    @property
    def available(self) -> bool:
        """Whether this GPU has GPM; known after the first reading."""
        return self._request is not None

    def read(self) -> Readings:
        """Activity since the last call; {} at first, and where there is no GPM. Raises GpuLost, DriverGone."""
        if self._request is None and not self._prepare():
            return {}
        device, request = self._device, self._request
        before, now = self._samples
        if device.ask("gpm sample", "nvmlGpmSampleGet", device.handle, now) is None:
            self._primed = False
            return {}
        self._samples = [now, before]
        if not self._primed:
            self._primed = True
            return {}
        request.sample1, request.sample2 = before, now
        if device.ask("gpm", "nvmlGpmMetricsGet", request) is None:
            return {}
        return {
            name: request.metrics[position].value * scale
            for position, (name, scale) in enumerate(_ACTIVITY.values())
            if request.metrics[position].nvmlReturn == 0
        }

    def _prepare(self) -> bool:
        device, api = self._device, self._device.api
        support = device.call("nvmlGpmQueryDeviceSupport")
        if support is None or not support.isSupportedDevice:
            return False
        self._samples = [device.ask("gpm alloc", "nvmlGpmSampleAlloc") for _ in range(2)]
        if None in self._samples:
            return False
        request = api.c_nvmlGpmMetricsGet_t()
        request.version = api.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(_ACTIVITY)
        for position, metric in enumerate(_ACTIVITY):
            request.metrics[position].metricId = metric
        self._request = request
        return True


def read_sample(device: Device, activity: Activity, *, slow: bool) -> Readings:
    """What moves each second. `slow` also allows a call that takes 20 ms. Raises GpuLost, DriverGone."""
    call = device.call
    readings: Readings = {
        "temperature_c": call("nvmlDeviceGetTemperature", 0),
        "temperature_margin_c": call("nvmlDeviceGetMarginTemperature"),
        "sm_clock_mhz": call("nvmlDeviceGetClockInfo", 1),
        "memory_clock_mhz": call("nvmlDeviceGetClockInfo", 2),
        "performance_state": call("nvmlDeviceGetPerformanceState"),
        "clock_event_reasons": _event_reasons(device),
        "fan_speed_percent": call("nvmlDeviceGetFanSpeed"),
        "power_limit_w": _scaled(call("nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
        "encoder_utilization_percent": _first(call("nvmlDeviceGetEncoderUtilization")),
        "decoder_utilization_percent": _first(call("nvmlDeviceGetDecoderUtilization")),
    }
    utilization = call("nvmlDeviceGetUtilizationRates")
    if utilization is not None:
        readings["utilization_percent"] = utilization.gpu
        readings["memory_utilization_percent"] = utilization.memory
    readings |= _memory(device)
    active = activity.read()
    # The first reading of GPM gives nothing yet; the counters would have to be dropped at the second.
    if activity.available and (not active or "pcie_tx_bytes_per_s" in active):
        return readings | _power(device, device.fields(_LEVELS)) | active
    fields = device.fields(_LEVELS + _TRAFFIC)
    return readings | _power(device, fields) | _traffic(device, fields, slow=slow) | active


def _event_reasons(device: Device) -> int | None:
    reasons: int | None = device.call("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = device.call("nvmlDeviceGetCurrentClocksThrottleReasons")
    return reasons


def _memory(device: Device) -> Readings:
    memory = device.call("nvmlDeviceGetMemoryInfo", device.api.nvmlMemory_v2)
    if memory is not None:
        return {
            "memory_used_bytes": memory.used,
            "memory_free_bytes": memory.free,
            "memory_reserved_bytes": memory.reserved,
        }
    memory = device.call("nvmlDeviceGetMemoryInfo")
    return (
        {}
        if memory is None
        else {"memory_used_bytes": memory.used, "memory_free_bytes": memory.free}
    )


def _power(device: Device, fields: dict[Field, int | float]) -> Readings:
    readings: Readings = {
        "power_average_w": _scaled(fields.get(POWER_AVERAGE), 1e-3),
        "power_instant_w": _scaled(fields.get(POWER_INSTANT), 1e-3),
        "energy_mj": fields.get(TOTAL_ENERGY),
        # A GPU without a sensor in its memory answers 0.
        "memory_temperature_c": fields.get(MEMORY_TEMP) or None,
    }
    if readings["power_average_w"] is None and readings["power_instant_w"] is None:
        readings[_power_kind(device)] = _scaled(device.call("nvmlDeviceGetPowerUsage"), 1e-3)
    if readings["energy_mj"] is None:
        readings["energy_mj"] = device.call("nvmlDeviceGetTotalEnergyConsumption")
    return readings


def _power_kind(device: Device) -> str:
    """nvmlDeviceGetPowerUsage is a 1 s average from Ampere on, except on GA100 (8.0); before, it is instant."""
    capability = device.call("nvmlDeviceGetCudaComputeCapability")
    return (
        "power_average_w" if capability is not None and capability > (8, 0) else "power_instant_w"
    )


def _traffic(device: Device, fields: dict[Field, int | float], *, slow: bool) -> Readings:
    readings: Readings = {
        "pcie_tx_bytes_per_s": device.rate("pcie tx", fields.get(PCIE_TX_BYTES)),
        "pcie_rx_bytes_per_s": device.rate("pcie rx", fields.get(PCIE_RX_BYTES)),
        "nvlink_tx_bytes_per_s": _scaled(
            device.rate("nvlink tx", fields.get(NVLINK_DATA_TX)), _KIB
        ),
        "nvlink_rx_bytes_per_s": _scaled(
            device.rate("nvlink rx", fields.get(NVLINK_DATA_RX)), _KIB
        ),
    }
    # Only older GPUs come here: the driver counts for 20 ms while this call waits. In kB/s.
    if slow and PCIE_TX_BYTES not in fields:
        readings["pcie_tx_bytes_per_s"] = _scaled(
            device.call("nvmlDeviceGetPcieThroughput", 0), 1e3
        )
        readings["pcie_rx_bytes_per_s"] = _scaled(
            device.call("nvmlDeviceGetPcieThroughput", 1), 1e3
        )
    return readings


def read_health(device: Device) -> Readings:
    """What moves slowly. Raises GpuLost, DriverGone."""
    call = device.call
    found = device.fields((*_HEALTH, NVLINK_COUNT))
    readings: Readings = {name: found.get(field) for field, name in _HEALTH.items()}
    processes = device.running("Compute")
    readings |= {
        "pcie_link_generation": call("nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_link_width": call("nvmlDeviceGetCurrPcieLinkWidth"),
        "compute_processes": None if processes is None else len(processes),
    }
    for policy, name in _VIOLATIONS.items():
        violation = call("nvmlDeviceGetViolationStatus", policy)
        readings[name] = None if violation is None else violation.violationTime
    _fill_in(readings, _older_counters(device, readings))
    return readings | _sram(device) | _fabric(device) | _links(device, found, readings)


def _older_counters(device: Device, readings: Readings) -> Readings:
    """The same counters by the calls that older drivers have, where the fields gave nothing."""
    older: Readings = {}
    if readings["ecc_corrected_volatile"] is None:
        for name, error, counter in (
            ("ecc_corrected_volatile", 0, 0),
            ("ecc_uncorrected_volatile", 1, 0),
            ("ecc_corrected_aggregate", 0, 1),
            ("ecc_uncorrected_aggregate", 1, 1),
        ):
            older[name] = device.call("nvmlDeviceGetTotalEccErrors", error, counter)
    if readings["rows_remapped_correctable"] is None:
        rows = device.call("nvmlDeviceGetRemappedRows")
        if rows is not None:
            names = (
                "rows_remapped_correctable",
                "rows_remapped_uncorrectable",
                "row_remap_pending",
                "row_remap_failure",
            )
            older |= dict(zip(names, rows, strict=True))
    if readings["pcie_replays"] is None:
        older["pcie_replays"] = device.call("nvmlDeviceGetPcieReplayCounter")
    return older


def _sram(device: Device) -> Readings:
    status = device.fill(
        "nvmlDeviceGetSramEccErrorStatus", device.api.c_nvmlEccSramErrorStatus_v1_t()
    )
    return {} if status is None else {"sram_threshold_exceeded": status.bThresholdExceeded}


def _fabric(device: Device) -> Readings:
    info = device.fill("nvmlDeviceGetGpuFabricInfoV", device.api.c_nvmlGpuFabricInfo_v2_t())
    # State 0: this GPU has no fabric.
    if info is None or info.state == 0:
        return {}
    return {"fabric_state": info.state, "fabric_health_mask": info.healthMask}


def _links(device: Device, found: dict[Field, int | float], readings: Readings) -> Readings:
    states = _link_states(device, int(found.get(NVLINK_COUNT, _MAX_LINKS)))
    if not states:
        return {}
    up = [link for link, state in enumerate(states) if state]
    counted = device.fields([(field, link) for field in _LINK_COUNTERS for link in up])
    sums: Readings = {}
    for field, name in _LINK_COUNTERS.items():
        values = [counted[field, link] for link in up if (field, link) in counted]
        if values and readings.get(name) is None and name not in sums:
            sums[name] = sum(values)
    return sums | {"nvlink_active_links": len(up)}


def _link_states(device: Device, links: int) -> list[int]:
    states: list[int] = []
    for link in range(min(links, _MAX_LINKS)):
        state = device.call("nvmlDeviceGetNvLinkState", link)
        if state is None:
            break
        states.append(state)
    return states


def _fill_in(readings: Readings, more: Readings) -> None:
    for name, value in more.items():
        if readings.get(name) is None:
            readings[name] = value


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _first(pair: Any) -> int | None:
    return None if pair is None else int(pair[0])
