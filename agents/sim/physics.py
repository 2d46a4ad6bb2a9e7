"""How power, heat, clocks and counters of GPUs follow what they are asked to do. Pure arithmetic on arrays, no I/O.

Power is constant within a step, so the energy counter is its exact integral. Heat moves by the exact solution of a first-order
lag, so any step length is stable. Arrays have the shape (nodes, gpus).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.sim.catalog import XIDS, GpuModel, Xid
from agents.sim.workload import Load, Workload

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

IDLE, POWER_CAP, HARDWARE, THERMAL, HARDWARE_THERMAL = 0x1, 0x4, 0x8, 0x20, 0x40

HEATING_S = 35.0  # time constant of a GPU with its cooler
MEMORY_HEATING_S = 60.0
RISE_AT_LIMIT_C = 43.0  # over the air that reaches it, at the power limit
REAR_PREHEAT_C_PER_W = 0.012  # the rear row breathes what the front row warmed
SIDE_PREHEAT_C_PER_W = 0.0015
RACK_RISE_C = 2.5  # top of a rack over its bottom, with the rack at full power
CLOCK_POWER = 2.2  # dynamic power over clock, with the voltage that goes with it
SOFT_MARGIN_C = 4.0  # software slows down this far below the hardware slowdown
LOST_S = 180.0  # a GPU that fell off the bus is reset after this
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands: its rack, its height in it (0 the lowest), and how much worse than usual its air is (1 = usual)."""

    rack: int
    height: int
    inlet_offset_c: float = 0.0
    resistance: float = 1.0


@dataclass(frozen=True, slots=True)
class Happened:
    """A driver error in this step."""

    node: int
    gpu: int
    xid: Xid


def _of(models: list[GpuModel], attribute: str, gpus: int) -> Floats:
    per_node = np.array([getattr(model, attribute) for model in models], dtype=np.float64)
    return np.repeat(per_node[:, None], gpus, axis=1)


class Block:
    """A run of nodes stepped together: jobs and heat act within it. Same arguments and steps, same numbers."""

    def __init__(
        self,
        models: list[GpuModel],
        places: list[Place],
        gpus: int,
        *,
        seed: tuple[int, ...],
        xids_per_gpu_hour: float = 0.02,
    ) -> None:
        self.models = models
        self.shape = (len(models), gpus)
        self._rng = rng = np.random.default_rng(seed)
        self.workload = Workload(len(models), gpus, rng)
        self._xids_per_gpu_s = xids_per_gpu_hour / 3600
        self._place(places)
        self._specify(models, gpus)
        self.stepped_s = 0.0
        self.load = Load(
            *(np.zeros(self.shape) for _ in range(5)), *(np.zeros(len(models)) for _ in range(4))
        )
        self.power_w: Floats = self.idle_w.copy()
        self.instant_w: Floats = self.idle_w.copy()
        self.energy_mj: Floats = rng.uniform(1e9, 5e12, self.shape).round()
        air = self.air_c(0.0)
        self.temperature_c: Floats = air + self.resistance_c_per_w * self.idle_w
        self.memory_temperature_c: Floats = self.temperature_c + 4.0
        self.clock_ratio: Floats = np.ones(self.shape)
        self.reasons: Ints = np.full(self.shape, IDLE, dtype=np.int64)
        self._thermal_ratio: Floats = np.ones(self.shape)
        self._count(rng)

    def _place(self, places: list[Place]) -> None:
        self.rack: Ints = np.unique(np.array([p.rack for p in places]), return_inverse=True)[1]
        self._height: Floats = np.array([p.height for p in places], dtype=np.float64)
        self._inlet_offset: Floats = np.array([p.inlet_offset_c for p in places])
        self._resistance: Floats = np.array([p.resistance for p in places])

    def _specify(self, models: list[GpuModel], gpus: int) -> None:
        self.idle_w = _of(models, "power_idle_w", gpus) * self._rng.uniform(0.94, 1.06, self.shape)
        self.limit_w = _of(models, "power_limit_w", gpus)
        self.dynamic_w = (
            (self.limit_w - self.idle_w)
            * _of(models, "hunger", gpus)
            * self._rng.uniform(0.96, 1.04, self.shape)
        )
        self.clock_max_mhz = _of(models, "sm_clock_max_mhz", gpus)
        self.clock_idle_mhz = _of(models, "sm_clock_idle_mhz", gpus)
        self.slowdown_c = _of(models, "temperature_slowdown_c", gpus)
        self.memory_bytes = _of(models, "memory_bytes", gpus)
        cooler = self._resistance[:, None] * self._rng.uniform(0.95, 1.05, self.shape)
        self.resistance_c_per_w = RISE_AT_LIMIT_C / self.limit_w * cooler
        # A few GPUs never reach the clocks of the others: they slow down every job they are part of.
        straggler = self._rng.random(self.shape) < 0.012
        self.clock_cap = np.where(straggler, self._rng.uniform(0.72, 0.9, self.shape), 1.0)

    def _count(self, rng: np.random.Generator) -> None:
        zeros = np.zeros(self.shape, dtype=np.int64)
        self.throttle_power_ns: Ints = zeros.copy()
        self.throttle_thermal_ns: Ints = zeros.copy()
        self.throttle_board_ns: Ints = zeros.copy()
        self.ecc_corrected: Ints = rng.poisson(0.3, self.shape).astype(np.int64)
        self.ecc_corrected_before: Ints = rng.poisson(3.0, self.shape).astype(np.int64)
        self.ecc_uncorrected: Ints = zeros.copy()
        self.rows_remapped: Ints = (rng.random(self.shape) < 0.01).astype(np.int64)
        self.remap_pending: Ints = zeros.copy()
        self.pcie_replays: Ints = rng.poisson(0.5, self.shape).astype(np.int64)
        self.nvlink_crc_errors: Ints = rng.poisson(0.2, self.shape).astype(np.int64)
        self.nvlink_replays: Ints = zeros.copy()
        self.recovery_action: Ints = zeros.copy()
        self.lost_s: Floats = np.zeros(self.shape)

    @property
    def lost(self) -> Bools:
        """Which GPUs have fallen off the bus and cannot be read now."""
        return self.lost_s > 0

    def inlet_c(self, unix_s: float) -> Floats:
        """Temperature of the air that enters each node: the hour of the day, the place, and the rack's own heat below it."""
        daily = 22.5 + 1.8 * np.sin(2 * np.pi * (unix_s / DAY_S - 0.375))
        share = (self.power_w / self.limit_w).mean(axis=1)
        racks = np.bincount(self.rack)
        fill = (np.bincount(self.rack, weights=share) / np.maximum(racks, 1))[self.rack]
        rise = RACK_RISE_C * fill * self._height / np.maximum(racks[self.rack] - 1, 1)
        result: Floats = daily + self._inlet_offset + rise
        return result

    def air_c(self, unix_s: float) -> Floats:
        """Temperature of the air that reaches each GPU: the inlet, and what the GPUs before and beside it add."""
        warm = self.power_w * SIDE_PREHEAT_C_PER_W
        air: Floats = np.repeat(self.inlet_c(unix_s)[:, None], self.shape[1], axis=1)
        air[:, 1:] += warm[:, :-1]
        air[:, :-1] += warm[:, 1:]
        half = self.shape[1] // 2
        if half:
            air[:, -half:] += self.power_w[:, :half] * REAR_PREHEAT_C_PER_W
        return air

    def step(self, dt_s: float, unix_s: float) -> list[Happened]:
        """Advance by dt_s seconds to the instant unix_s. Returns the driver errors that happened on the way."""
        self.stepped_s += dt_s
        self.load = self.workload.step(dt_s, unix_s, self.clock_ratio)
        self._draw_power(dt_s)
        self._heat(dt_s, unix_s)
        return self._misfortunes(dt_s)

    def _draw_power(self, dt_s: float) -> None:
        load = self.load
        noise = self._rng.standard_normal(self.shape)
        work = 0.66 * load.compute + 0.27 * load.dram + 0.12 * load.nvlink
        dynamic = self.dynamic_w * work * (1 + 0.02 * noise)
        dynamic = np.maximum(np.where(self.lost, 0.0, dynamic), 1e-6)
        room = self.limit_w - self.idle_w
        cap_ratio = np.minimum((room / dynamic) ** (1 / CLOCK_POWER), 1.0)
        heat_ratio = self._heat_ratio(dt_s)
        ratio = np.minimum(np.minimum(cap_ratio, heat_ratio), self.clock_cap)
        self.power_w = np.minimum(self.idle_w + dynamic * ratio**CLOCK_POWER, self.limit_w)
        self.instant_w = np.clip(
            self.power_w * (1 + 0.015 * noise[:, ::-1]), 0.0, self.limit_w * 1.05
        )
        self.energy_mj += self.power_w * dt_s * 1000.0
        self._reason(work > 0.01, cap_ratio, heat_ratio, ratio, dt_s)

    def _heat_ratio(self, dt_s: float) -> Floats:
        """The clock that temperature allows: software eases off above its target, the hardware halves at its own."""
        excess = self.temperature_c - (self.slowdown_c - SOFT_MARGIN_C)
        self._thermal_ratio = np.clip(self._thermal_ratio - 0.0008 * dt_s * excess, 0.5, 1.0)
        soft = np.clip(self._thermal_ratio - 0.02 * np.maximum(excess, 0.0), 0.5, 1.0)
        result: Floats = np.where(self.temperature_c >= self.slowdown_c, 0.5, soft)
        return result

    def _reason(self, busy: Bools, cap: Floats, heat: Floats, ratio: Floats, dt_s: float) -> None:
        self.clock_ratio = np.where(busy, ratio, 1.0)
        by_power = busy & (cap < 0.999) & (cap <= heat)
        by_heat = busy & (heat < 0.999) & (heat <= cap)
        by_hardware = busy & (self.temperature_c >= self.slowdown_c)
        reasons = np.where(busy, 0, IDLE)
        reasons |= np.where(by_power, POWER_CAP, 0)
        reasons |= np.where(by_heat & ~by_hardware, THERMAL, 0)
        reasons |= np.where(by_hardware, HARDWARE | HARDWARE_THERMAL, 0)
        self.reasons = reasons
        elapsed_ns = round(dt_s * 1e9)
        self.throttle_power_ns += np.where(by_power, elapsed_ns, 0)
        self.throttle_thermal_ns += np.where(by_heat | by_hardware, elapsed_ns, 0)

    def _heat(self, dt_s: float, unix_s: float) -> None:
        rest = self.air_c(unix_s) + self.resistance_c_per_w * self.power_w
        self.temperature_c += (rest - self.temperature_c) * -np.expm1(-dt_s / HEATING_S)
        rest = self.temperature_c + 4.0 + 9.0 * self.load.dram
        self.memory_temperature_c += (rest - self.memory_temperature_c) * -np.expm1(
            -dt_s / MEMORY_HEATING_S
        )

    def _misfortunes(self, dt_s: float) -> list[Happened]:
        self.lost_s = np.maximum(self.lost_s - dt_s, 0.0)
        self._wear(dt_s)
        count = self._rng.poisson(self._xids_per_gpu_s * self.power_w.size * dt_s)
        return [self._strike() for _ in range(count)]

    def _wear(self, dt_s: float) -> None:
        """Corrected errors and replays, rare and harmless."""
        for counter, per_gpu_s in (
            (self.ecc_corrected, 2e-6),
            (self.pcie_replays, 1e-6),
            (self.nvlink_replays, 1e-6),
        ):
            for _ in range(self._rng.poisson(per_gpu_s * counter.size * dt_s)):
                counter.flat[self._rng.integers(counter.size)] += 1

    def _strike(self) -> Happened:
        """One driver error on one GPU, with what follows from it."""
        rng = self._rng
        node, gpu = int(rng.integers(self.shape[0])), int(rng.integers(self.shape[1]))
        weights = np.array([x.weight for x in XIDS])
        xid = XIDS[int(rng.choice(len(XIDS), p=weights / weights.sum()))]
        self.suffer(node, gpu, xid.code)
        return Happened(node, gpu, xid)

    def suffer(self, node: int, gpu: int, code: int) -> None:
        """Apply the consequences of a driver error: counters move, the job ends, the GPU may be gone for a while."""
        at = (node, gpu)
        self.workload.end_job(node)
        if code in (48, 94):
            self.ecc_uncorrected[at] += 1
        if code in (48, 63, 94):
            self.rows_remapped[at] += 1
            self.remap_pending[at] = 1
            self.recovery_action[at] = 1
        if code == 74:
            self.nvlink_crc_errors[at] += int(self._rng.integers(5, 50))
            self.recovery_action[at] = 1
        if code == 79:
            self.lost_s[at] = LOST_S
            self.recovery_action[at] = 2


def gpu_columns(block: Block) -> dict[str, npt.NDArray[Any]]:
    """The readings of `gpu_sample`, by metric name, as (nodes, gpus)."""
    load = block.load
    busy = np.where(load.compute > 0.01, np.minimum(0.25 + load.compute, 1.0), 0.0)
    reserved = block.memory_bytes * 0.0072
    used = np.where(load.memory > 0, block.memory_bytes * load.memory, 4.0 * (1 << 20))
    links = _of(block.models, "nvlink_bytes_per_s", block.shape[1]) * load.nvlink
    lanes = _of(block.models, "pcie_bytes_per_s", block.shape[1]) * load.pcie
    idle_clock = block.reasons == IDLE
    clock = np.where(
        idle_clock,
        block.clock_idle_mhz,
        np.floor(block.clock_max_mhz * block.clock_ratio / 15) * 15,
    )
    zero = np.zeros(block.shape, dtype=np.int64)
    return {
        "utilization_percent": np.rint(busy * 100),
        "memory_utilization_percent": np.rint(load.dram * 80),
        "memory_used_bytes": used,
        "memory_free_bytes": np.maximum(block.memory_bytes - used - reserved, 0),
        "memory_reserved_bytes": reserved,
        "power_average_w": block.power_w,
        "power_instant_w": block.instant_w,
        "power_limit_w": block.limit_w,
        "energy_mj": np.floor(block.energy_mj),
        "temperature_c": np.rint(block.temperature_c),
        "memory_temperature_c": np.rint(block.memory_temperature_c),
        "temperature_margin_c": np.rint(block.slowdown_c - block.temperature_c),
        "sm_clock_mhz": clock,
        "memory_clock_mhz": _of(block.models, "memory_clock_mhz", block.shape[1]),
        "performance_state": zero,
        "clock_event_reasons": block.reasons,
        "fan_speed_percent": zero,
        "encoder_utilization_percent": zero,
        "decoder_utilization_percent": zero,
        "graphics_active_ratio": busy * 0.99,
        "sm_active_ratio": load.compute * 0.94,
        "sm_occupancy_ratio": load.compute * 0.41,
        "tensor_active_ratio": load.compute * 0.55 * block.clock_ratio,
        "dram_active_ratio": load.dram * 0.9,
        "fp64_active_ratio": zero,
        "fp32_active_ratio": load.compute * 0.12,
        "fp16_active_ratio": load.compute * 0.03,
        "pcie_tx_bytes_per_s": lanes * 0.35 + 1e5,
        "pcie_rx_bytes_per_s": lanes + 1e5,
        "nvlink_tx_bytes_per_s": links,
        "nvlink_rx_bytes_per_s": links * 0.99,
    }


def health_columns(block: Block) -> dict[str, npt.NDArray[Any]]:
    """The readings of `gpu_health`, by metric name, as (nodes, gpus)."""
    zero = np.zeros(block.shape, dtype=np.int64)
    one_job = np.where(block.load.memory > 0, 1, 0)
    return {
        "throttle_power_ns": block.throttle_power_ns,
        "throttle_thermal_ns": block.throttle_thermal_ns,
        "throttle_sync_boost_ns": zero,
        "throttle_board_ns": block.throttle_board_ns,
        "throttle_low_utilization_ns": zero,
        "throttle_reliability_ns": zero,
        "ecc_corrected_volatile": block.ecc_corrected,
        "ecc_uncorrected_volatile": block.ecc_uncorrected,
        "ecc_corrected_aggregate": block.ecc_corrected + block.ecc_corrected_before,
        "ecc_uncorrected_aggregate": block.ecc_uncorrected,
        "sram_threshold_exceeded": zero,
        "rows_remapped_uncorrectable": block.ecc_uncorrected,
        "rows_remapped_correctable": np.maximum(block.rows_remapped - block.ecc_uncorrected, 0),
        "row_remap_failure": zero,
        "row_remap_pending": block.remap_pending,
        "retired_pages_single_bit": zero,
        "retired_pages_double_bit": zero,
        "retired_pages_pending": zero,
        "pcie_replays": block.pcie_replays,
        "pcie_correctable_errors": block.pcie_replays * 3,
        "pcie_link_generation": _of(block.models, "pcie_generation", block.shape[1]),
        "pcie_link_width": np.full(block.shape, 16),
        "nvlink_active_links": _of(block.models, "nvlink_links", block.shape[1]),
        "nvlink_crc_errors": block.nvlink_crc_errors,
        "nvlink_replay_errors": block.nvlink_replays,
        "nvlink_recovery_errors": zero,
        "fabric_state": np.full(block.shape, 3),
        "fabric_health_mask": zero,
        "recovery_action": block.recovery_action,
        "compute_processes": one_job,
    }


def node_columns(block: Block, unix_s: float) -> dict[str, npt.NDArray[Any]]:
    """The readings of `node_sample`, by metric name, as (nodes,)."""
    load, nodes = block.load, block.shape[0]
    noise = 1 + 0.05 * np.abs(np.sin(unix_s * 0.7 + np.arange(nodes)))
    cpu = np.minimum(load.cpu * 100 * noise, 100.0)
    iowait = np.minimum(100 * load.disk_read * 0.06, 100 - cpu)
    memory_used = (0.06 + 0.4 * load.cpu) * 2.0 * (1 << 40)
    many = np.bincount(block.workload.group_of_node)[block.workload.group_of_node] > 1
    infiniband = np.where(many, load.network * 8 * 48e9, 2e3) * noise
    zero = np.zeros(nodes, dtype=np.int64)
    return {
        "cpu_percent": cpu,
        "cpu_iowait_percent": iowait,
        "load_1m": cpu * 1.92 + 0.4,
        "memory_used_bytes": memory_used,
        "memory_available_bytes": 2.0 * (1 << 40) - memory_used,
        "swap_used_bytes": zero,
        "cpu_pressure_percent": np.maximum(cpu - 70, 0) * 0.4,
        "memory_pressure_percent": zero,
        "memory_full_pressure_percent": zero,
        "io_pressure_percent": load.disk_read * 12 + load.disk_write * 20,
        "io_full_pressure_percent": load.disk_read * 4 + load.disk_write * 9,
        "disk_read_bytes_per_s": load.disk_read * 9e9 * noise,
        "disk_write_bytes_per_s": load.disk_write * 4e9 * noise + 2e5,
        "root_disk_used_percent": 31.0 + (np.arange(nodes) * 7 % 40),
        "network_rx_bytes_per_s": (load.network * 2e8 + 3e5) * noise,
        "network_tx_bytes_per_s": (load.network * 1.5e8 + 2e5) * noise,
        "network_errors": zero,
        "infiniband_rx_bytes_per_s": infiniband,
        "infiniband_tx_bytes_per_s": infiniband * 0.99,
        "infiniband_ports_active": zero + 8,
        "infiniband_errors": zero,
        "infiniband_link_downed": zero,
        "cpu_temperature_c": block.inlet_c(unix_s) + 18 + cpu * 0.35,
        "fan_speed_rpm": np.rint(4200 + 9000 * (block.power_w / block.limit_w).mean(axis=1)),
        "rapl_power_w": 180 + cpu * 5.2,
        "processes_blocked": np.rint(load.disk_write * 4),
        "uptime_s": np.full(nodes, int(block.stepped_s) + 86_400)
        + np.arange(nodes) * 3607 % 2_000_000,
    }
