"""The metrics dcops knows: one entry here gives a metric its wire field, column, rollup, unit and exported name.

Three tables hold them. `gpu_sample` is what moves every second, `gpu_health` the counters that move slowly,
`node_sample` the host. A missing reading is None on the agent, NULL in PostgreSQL and a gap in a chart: never 0.

Exported names and numeric ids follow dcgm-exporter's `default-counters.csv` and NVIDIA's `dcgm_fields.h`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

ColumnType = Literal["int2", "int4", "int8", "float4"]


class Kind(StrEnum):
    """How a metric may be read: a level, a running total, or a state that is compared and never averaged."""

    GAUGE = "gauge"
    COUNTER = "counter"
    STATE = "state"
    BITS = "bits"


@dataclass(frozen=True, slots=True)
class Exported:
    """The dcgm-exporter name of a metric; `scale` turns our unit into DCGM's (bytes to MiB: 1/1048576)."""

    name: str
    field_id: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quantity. `minimum` and `maximum` bound what a sane device can report, in `unit`."""

    name: str
    label: str
    unit: str
    column: ColumnType
    minimum: float
    maximum: float
    kind: Kind = Kind.GAUGE
    dcgm: Exported | None = None


@dataclass(frozen=True, slots=True)
class SampleTable:
    """A family of metrics sampled together, stored as one row per subject and tick."""

    name: str
    code: int
    subject: Literal["gpu", "node"]
    every_s: float
    metrics: tuple[Metric, ...]

    def metric(self, name: str) -> Metric:
        """Return the metric of that name. Raises KeyError if this table has none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in wire and column order."""
        return tuple(m.name for m in self.metrics)


_INT4 = 2**31 - 1
_INT8 = 2**63 - 1
_BYTES = 2**50
_RATE = float(2**43)  # exact as float4
_MIB = 1 / 1048576


def _percent(name: str, label: str, dcgm: Exported | None = None) -> Metric:
    return Metric(name, label, "%", "int2", 0, 100, dcgm=dcgm)


def _ratio(name: str, label: str, field_id: int, dcgm_name: str) -> Metric:
    return Metric(name, label, "ratio", "float4", 0, 1, dcgm=Exported(dcgm_name, field_id))


def _rate(name: str, label: str, dcgm: Exported | None = None) -> Metric:
    return Metric(name, label, "B/s", "float4", 0, _RATE, dcgm=dcgm)


def _count(
    name: str, label: str, column: ColumnType = "int8", dcgm: Exported | None = None
) -> Metric:
    bound = _INT8 if column == "int8" else _INT4
    return Metric(name, label, "", column, 0, bound, Kind.COUNTER, dcgm)


def _throttle_ns(name: str, label: str, field_id: int, dcgm_name: str) -> Metric:
    return Metric(name, label, "ns", "int8", 0, _INT8, Kind.COUNTER, Exported(dcgm_name, field_id))


GPU_SAMPLE = SampleTable(
    "gpu_sample",
    1,
    "gpu",
    1.0,
    (
        _percent("utilization_percent", "GPU utilization", Exported("DCGM_FI_DEV_GPU_UTIL", 203)),
        _percent(
            "memory_utilization_percent",
            "Memory copy utilization",
            Exported("DCGM_FI_DEV_MEM_COPY_UTIL", 204),
        ),
        Metric(
            "memory_used_bytes",
            "Memory used",
            "B",
            "int8",
            0,
            _BYTES,
            dcgm=Exported("DCGM_FI_DEV_FB_USED", 252, _MIB),
        ),
        Metric(
            "memory_free_bytes",
            "Memory free",
            "B",
            "int8",
            0,
            _BYTES,
            dcgm=Exported("DCGM_FI_DEV_FB_FREE", 251, _MIB),
        ),
        Metric(
            "memory_reserved_bytes",
            "Memory reserved",
            "B",
            "int8",
            0,
            _BYTES,
            dcgm=Exported("DCGM_FI_DEV_FB_RESERVED", 253, _MIB),
        ),
        Metric(
            "power_average_w",
            "Power, 1 s average",
            "W",
            "float4",
            0,
            5000,
            dcgm=Exported("DCGM_FI_DEV_POWER_USAGE", 155),
        ),
        Metric(
            "power_instant_w",
            "Power, instant",
            "W",
            "float4",
            0,
            5000,
            dcgm=Exported("DCGM_FI_DEV_POWER_USAGE_INSTANT", 157),
        ),
        Metric(
            "power_limit_w",
            "Power limit in force",
            "W",
            "float4",
            0,
            5000,
            dcgm=Exported("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 164),
        ),
        Metric(
            "energy_mj",
            "Energy since driver load",
            "mJ",
            "int8",
            0,
            _INT8,
            Kind.COUNTER,
            Exported("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 156),
        ),
        Metric(
            "temperature_c",
            "GPU temperature",
            "°C",
            "int2",
            -40,
            200,
            dcgm=Exported("DCGM_FI_DEV_GPU_TEMP", 150),
        ),
        Metric(
            "memory_temperature_c",
            "Memory temperature",
            "°C",
            "int2",
            -40,
            200,
            dcgm=Exported("DCGM_FI_DEV_MEMORY_TEMP", 140),
        ),
        Metric(
            "temperature_margin_c",
            "Margin to slowdown",
            "°C",
            "int2",
            -100,
            200,
            dcgm=Exported("DCGM_FI_DEV_GPU_TEMP_LIMIT", 153),
        ),
        Metric(
            "sm_clock_mhz",
            "SM clock",
            "MHz",
            "int2",
            0,
            20000,
            dcgm=Exported("DCGM_FI_DEV_SM_CLOCK", 100),
        ),
        Metric(
            "memory_clock_mhz",
            "Memory clock",
            "MHz",
            "int2",
            0,
            30000,
            dcgm=Exported("DCGM_FI_DEV_MEM_CLOCK", 101),
        ),
        Metric(
            "performance_state",
            "Performance state",
            "P",
            "int2",
            0,
            32,
            Kind.STATE,
            Exported("DCGM_FI_DEV_PSTATE", 190),
        ),
        Metric(
            "clock_event_reasons",
            "Clock event reasons",
            "bits",
            "int4",
            0,
            _INT4,
            Kind.BITS,
            Exported("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 112),
        ),
        Metric(
            "fan_speed_percent",
            "Fan speed",
            "%",
            "int2",
            0,
            200,
            dcgm=Exported("DCGM_FI_DEV_FAN_SPEED", 191),
        ),
        _percent(
            "encoder_utilization_percent",
            "Encoder utilization",
            Exported("DCGM_FI_DEV_ENC_UTIL", 206),
        ),
        _percent(
            "decoder_utilization_percent",
            "Decoder utilization",
            Exported("DCGM_FI_DEV_DEC_UTIL", 207),
        ),
        _ratio(
            "graphics_active_ratio", "Compute engine active", 1001, "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
        ),
        _ratio("sm_active_ratio", "SM active", 1002, "DCGM_FI_PROF_SM_ACTIVE"),
        _ratio("sm_occupancy_ratio", "SM occupancy", 1003, "DCGM_FI_PROF_SM_OCCUPANCY"),
        _ratio(
            "tensor_active_ratio", "Tensor cores active", 1004, "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"
        ),
        _ratio("dram_active_ratio", "Memory bandwidth active", 1005, "DCGM_FI_PROF_DRAM_ACTIVE"),
        _ratio("fp64_active_ratio", "FP64 active", 1006, "DCGM_FI_PROF_PIPE_FP64_ACTIVE"),
        _ratio("fp32_active_ratio", "FP32 active", 1007, "DCGM_FI_PROF_PIPE_FP32_ACTIVE"),
        _ratio("fp16_active_ratio", "FP16 active", 1008, "DCGM_FI_PROF_PIPE_FP16_ACTIVE"),
        _rate("pcie_tx_bytes_per_s", "PCIe sent", Exported("DCGM_FI_PROF_PCIE_TX_BYTES", 1009)),
        _rate(
            "pcie_rx_bytes_per_s", "PCIe received", Exported("DCGM_FI_PROF_PCIE_RX_BYTES", 1010)
        ),
        _rate(
            "nvlink_tx_bytes_per_s", "NVLink sent", Exported("DCGM_FI_PROF_NVLINK_TX_BYTES", 1011)
        ),
        _rate(
            "nvlink_rx_bytes_per_s",
            "NVLink received",
            Exported("DCGM_FI_PROF_NVLINK_RX_BYTES", 1012),
        ),
    ),
)

GPU_HEALTH = SampleTable(
    "gpu_health",
    2,
    "gpu",
    15.0,
    (
        _throttle_ns(
            "throttle_power_ns", "Time limited by power", 240, "DCGM_FI_DEV_POWER_VIOLATION"
        ),
        _throttle_ns(
            "throttle_thermal_ns", "Time limited by heat", 241, "DCGM_FI_DEV_THERMAL_VIOLATION"
        ),
        _throttle_ns(
            "throttle_sync_boost_ns",
            "Time limited by sync boost",
            242,
            "DCGM_FI_DEV_SYNC_BOOST_VIOLATION",
        ),
        _throttle_ns(
            "throttle_board_ns",
            "Time limited by the board",
            243,
            "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION",
        ),
        _throttle_ns(
            "throttle_low_utilization_ns",
            "Time limited by low utilization",
            244,
            "DCGM_FI_DEV_LOW_UTIL_VIOLATION",
        ),
        _throttle_ns(
            "throttle_reliability_ns",
            "Time limited by reliability",
            245,
            "DCGM_FI_DEV_RELIABILITY_VIOLATION",
        ),
        _count(
            "ecc_corrected_volatile",
            "ECC corrected since driver load",
            dcgm=Exported("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 310),
        ),
        _count(
            "ecc_uncorrected_volatile",
            "ECC uncorrected since driver load",
            dcgm=Exported("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 311),
        ),
        _count(
            "ecc_corrected_aggregate",
            "ECC corrected, lifetime",
            dcgm=Exported("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", 312),
        ),
        _count(
            "ecc_uncorrected_aggregate",
            "ECC uncorrected, lifetime",
            dcgm=Exported("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", 313),
        ),
        Metric(
            "sram_threshold_exceeded",
            "SRAM error threshold exceeded",
            "",
            "int2",
            0,
            1,
            Kind.STATE,
        ),
        _count(
            "rows_remapped_uncorrectable",
            "Rows remapped, uncorrectable",
            "int4",
            Exported("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 393),
        ),
        _count(
            "rows_remapped_correctable",
            "Rows remapped, correctable",
            "int4",
            Exported("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", 394),
        ),
        Metric(
            "row_remap_failure",
            "Row remap failed",
            "",
            "int2",
            0,
            1,
            Kind.STATE,
            Exported("DCGM_FI_DEV_ROW_REMAP_FAILURE", 395),
        ),
        Metric(
            "row_remap_pending",
            "Row remap pending",
            "",
            "int2",
            0,
            1,
            Kind.STATE,
            Exported("DCGM_FI_DEV_ROW_REMAP_PENDING", 396),
        ),
        _count(
            "retired_pages_single_bit",
            "Pages retired, single bit",
            "int4",
            Exported("DCGM_FI_DEV_RETIRED_SBE", 390),
        ),
        _count(
            "retired_pages_double_bit",
            "Pages retired, double bit",
            "int4",
            Exported("DCGM_FI_DEV_RETIRED_DBE", 391),
        ),
        Metric(
            "retired_pages_pending",
            "Page retirement pending",
            "",
            "int2",
            0,
            1,
            Kind.STATE,
            Exported("DCGM_FI_DEV_RETIRED_PENDING", 392),
        ),
        _count(
            "pcie_replays", "PCIe replays", dcgm=Exported("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 202)
        ),
        Metric(
            "pcie_link_generation",
            "PCIe generation",
            "",
            "int2",
            0,
            32,
            Kind.STATE,
            Exported("DCGM_FI_DEV_PCIE_LINK_GEN", 237),
        ),
        Metric(
            "pcie_link_width",
            "PCIe lanes",
            "lanes",
            "int2",
            0,
            64,
            Kind.STATE,
            Exported("DCGM_FI_DEV_PCIE_LINK_WIDTH", 238),
        ),
        Metric("nvlink_active_links", "NVLinks up", "links", "int2", 0, 64, Kind.STATE),
        _count(
            "nvlink_crc_errors",
            "NVLink CRC errors",
            dcgm=Exported("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 409),
        ),
        _count(
            "nvlink_replay_errors",
            "NVLink replays",
            dcgm=Exported("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", 429),
        ),
        _count(
            "nvlink_recovery_errors",
            "NVLink recoveries",
            dcgm=Exported("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 439),
        ),
        Metric(
            "fabric_state",
            "Fabric state",
            "",
            "int2",
            0,
            100,
            Kind.STATE,
            Exported("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", 170),
        ),
        Metric("fabric_health_mask", "Fabric health", "bits", "int4", 0, _INT4, Kind.BITS),
        Metric(
            "recovery_action",
            "Recovery the driver asks for",
            "",
            "int2",
            0,
            100,
            Kind.STATE,
            Exported("DCGM_FI_DEV_GPU_RECOVERY_ACTION", 1523),
        ),
        Metric("compute_processes", "Compute processes", "", "int4", 0, _INT4),
        _count(
            "pcie_correctable_errors",
            "PCIe correctable errors",
            dcgm=Exported("DCGM_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS", 1501),
        ),
        _count(
            "nvlink_receive_errors",
            "NVLink receive errors",
            dcgm=Exported("DCGM_FI_DEV_NVLINK_COUNT_RX_ERRORS", 1206),
        ),
        _count(
            "nvlink_integrity_errors",
            "NVLink integrity errors",
            dcgm=Exported("DCGM_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS", 1209),
        ),
        _count(
            "nvlink_recovery_failures",
            "NVLink recoveries that failed",
            dcgm=Exported("DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS", 1212),
        ),
    ),
)

NODE_SAMPLE = SampleTable(
    "node_sample",
    3,
    "node",
    1.0,
    (
        Metric("cpu_percent", "CPU used", "%", "float4", 0, 100),
        Metric("cpu_iowait_percent", "CPU waiting for I/O", "%", "float4", 0, 100),
        Metric("load_1m", "Load, 1 min", "", "float4", 0, 1e6),
        Metric("memory_used_bytes", "Memory used", "B", "int8", 0, _BYTES),
        Metric("memory_available_bytes", "Memory available", "B", "int8", 0, _BYTES),
        Metric("swap_used_bytes", "Swap used", "B", "int8", 0, _BYTES),
        Metric("cpu_pressure_percent", "CPU pressure, some, 10 s", "%", "float4", 0, 100),
        Metric("memory_pressure_percent", "Memory pressure, some, 10 s", "%", "float4", 0, 100),
        Metric(
            "memory_full_pressure_percent", "Memory pressure, full, 10 s", "%", "float4", 0, 100
        ),
        Metric("io_pressure_percent", "I/O pressure, some, 10 s", "%", "float4", 0, 100),
        Metric("io_full_pressure_percent", "I/O pressure, full, 10 s", "%", "float4", 0, 100),
        _rate("disk_read_bytes_per_s", "Disk read"),
        _rate("disk_write_bytes_per_s", "Disk written"),
        Metric("root_disk_used_percent", "Root disk used", "%", "float4", 0, 100),
        _rate("network_rx_bytes_per_s", "Network received"),
        _rate("network_tx_bytes_per_s", "Network sent"),
        _count("network_errors", "Network errors and drops"),
        _rate("infiniband_rx_bytes_per_s", "InfiniBand received"),
        _rate("infiniband_tx_bytes_per_s", "InfiniBand sent"),
        Metric(
            "infiniband_ports_active", "InfiniBand ports up", "ports", "int2", 0, 256, Kind.STATE
        ),
        _count("infiniband_errors", "InfiniBand errors"),
        _count("infiniband_link_downed", "InfiniBand link losses"),
        Metric("cpu_temperature_c", "CPU temperature, hottest", "°C", "float4", -40, 200),
        Metric("fan_speed_rpm", "Fan speed, slowest", "rpm", "int4", 0, 100000),
        Metric("rapl_power_w", "CPU package power", "W", "float4", 0, 20000),
        Metric("processes_blocked", "Processes in uninterruptible sleep", "", "int4", 0, _INT4),
        Metric("uptime_s", "Uptime", "s", "int8", 0, _INT8),
    ),
)

TABLES: tuple[SampleTable, ...] = (GPU_SAMPLE, GPU_HEALTH, NODE_SAMPLE)
TABLE_BY_CODE = {table.code: table for table in TABLES}
TABLE_BY_NAME = {table.name: table for table in TABLES}

# Bits of `clock_event_reasons`, from nvml.h (nvmlClocksEventReason*). Idle and application settings are not a fault.
CLOCK_EVENT_REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}

# Values of `recovery_action`, from nvml.h (nvmlDeviceGpuRecoveryAction_t).
RECOVERY_ACTIONS: tuple[str, ...] = (
    "none",
    "reset the GPU",
    "reboot the node",
    "drain peer-to-peer",
    "drain and reset",
    "restart IMEX",
    "reset the bus",
    "reboot the system",
)
